package conformance

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

const otherTag = `"00000000000000000000000000000000"`

// Source: AWS, GetObject and HeadObject, the notes on combined conditions;
// RFC 9110, section 13.2.2, precedence.
func TestConditionalReads(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := []byte("conditional")
	tag := b.put("key", data).etag()
	bare := strings.Trim(tag, `"`)
	modified, err := time.Parse(http.TimeFormat, b.head("key").header.Get("Last-Modified"))
	if err != nil {
		t.Fatal(err)
	}
	at := modified.Format(http.TimeFormat)
	before := modified.Add(-time.Hour).Format(http.TimeFormat)
	after := modified.Add(time.Second).Format(http.TimeFormat)
	for _, tt := range []struct {
		headers string // name: value; name: value
		status  int
	}{
		{"If-Match: " + tag, 200},
		{"If-Match: " + bare, 200},
		{"If-Match: *", 200},
		{"If-Match: " + otherTag + ", " + tag, 200},
		{"If-Match: " + otherTag, 412},
		{"If-None-Match: " + tag, 304},
		{"If-None-Match: " + bare, 304},
		{"If-None-Match: *", 304},
		{"If-None-Match: " + otherTag, 200},
		{"If-Modified-Since: " + before, 200},
		{"If-Modified-Since: " + at, 304},
		{"If-Unmodified-Since: " + before, 412},
		{"If-Unmodified-Since: " + at, 200},
		{"If-Unmodified-Since: " + after, 200},
		{"If-Modified-Since: yesterday", 200},
		{"If-Unmodified-Since: yesterday", 200},
		{"If-Match: " + tag + "; If-Unmodified-Since: " + before, 200},
		{"If-Match: " + otherTag + "; If-Unmodified-Since: " + after, 412},
		{"If-None-Match: " + tag + "; If-Modified-Since: " + before, 304},
		{"If-None-Match: " + otherTag + "; If-Modified-Since: " + at, 200},
		{"If-Match: " + tag + "; If-None-Match: " + tag, 304},
		{"If-Match: " + otherTag + "; If-None-Match: " + otherTag, 412},
	} {
		var pairs []string
		for h := range strings.SplitSeq(tt.headers, "; ") {
			name, value, _ := strings.Cut(h, ": ")
			pairs = append(pairs, name, value)
		}
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			r := b.request(method, "key", nil, pairs...)
			if r.status != tt.status {
				t.Errorf("%s with %s: status %d, want %d", method, tt.headers, r.status, tt.status)
				continue
			}
			switch {
			case tt.status == http.StatusNotModified:
				r.wantHeader("ETag", tag)
				if r.header.Get("Last-Modified") == "" {
					t.Errorf("%s with %s: 304 without Last-Modified", method, tt.headers)
				}
			case tt.status == http.StatusPreconditionFailed && method == http.MethodGet:
				if e := r.wantError(412, "PreconditionFailed"); !strings.HasPrefix(e.Condition, "If-") {
					t.Errorf("%s: Condition %q in the error, want the header's name", tt.headers, e.Condition)
				}
			case method == http.MethodGet:
				r.wantBody(data)
			}
		}
	}
	b.get("missing", "If-None-Match", "*").wantError(http.StatusNotFound, "NoSuchKey")
	b.get("missing", "If-Match", tag).wantError(http.StatusNotFound, "NoSuchKey")
}

// writer is one of the calls that write an object and take conditions.
type writer struct {
	name  string
	write func(b *bucket, key string, data []byte, pairs ...string) *reply
}

// writers lists them: AWS, "How to prevent object overwrites with conditional
// writes".
func writers() []writer {
	return []writer{
		{"PutObject", func(b *bucket, key string, data []byte, pairs ...string) *reply {
			return b.request(http.MethodPut, key, data, pairs...)
		}},
		{"CompleteMultipartUpload", func(b *bucket, key string, data []byte, pairs ...string) *reply {
			u := b.create(key)
			u.part(1, data).want(http.StatusOK)
			r := u.tryComplete(pairs...)
			if r.status != http.StatusOK {
				u.abort().want(http.StatusNoContent)
			}
			return r
		}},
		{"CopyObject", func(b *bucket, key string, data []byte, pairs ...string) *reply {
			source := "source-of-" + key + "-" + hexHash(data)[:8]
			b.put(source, data)
			return b.request(http.MethodPut, key, nil, append(pairs, "x-amz-copy-source", "/"+b.name+"/"+source)...)
		}},
	}
}

func TestConditionalWrites(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	for _, w := range writers() {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			b, key := b.with(t), w.name
			w.write(b, key, []byte("zero"), "If-Match", otherTag).wantError(http.StatusNotFound, "NoSuchKey")
			b.wantAbsent(key)
			w.write(b, key, []byte("one"), "If-None-Match", "*").want(http.StatusOK)
			tag := b.get(key).want(http.StatusOK).wantBody([]byte("one")).etag()
			e := w.write(b, key, []byte("two"), "If-None-Match", "*").wantError(http.StatusPreconditionFailed, "PreconditionFailed")
			if e.Condition != "If-None-Match" {
				t.Errorf("Condition %q in the error, want If-None-Match", e.Condition)
			}
			w.write(b, key, []byte("two"), "If-Match", otherTag).wantError(http.StatusPreconditionFailed, "PreconditionFailed")
			b.get(key).want(http.StatusOK).wantBody([]byte("one"))
			w.write(b, key, []byte("two"), "If-Match", tag).want(http.StatusOK)
			second := b.get(key).want(http.StatusOK).wantBody([]byte("two")).etag()
			w.write(b, key, []byte("three"), "If-Match", strings.Trim(second, `"`)).want(http.StatusOK)
			w.write(b, key, []byte("four"), "If-None-Match", tag).wantError(http.StatusNotImplemented, "NotImplemented")
			b.get(key).want(http.StatusOK).wantBody([]byte("three"))
			b.request(http.MethodDelete, key, nil).want(http.StatusNoContent)
			w.write(b, key, []byte("five"), "If-None-Match", "*").want(http.StatusOK)
		})
	}
}

// Of many writers that want to be the first, one is.
func TestConditionalWritesOneWinner(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	for _, w := range writers() {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			for round := range 4 {
				raceOnce(t, b.with(t), w, fmt.Sprintf("%s-%d", w.name, round))
			}
		})
	}
}

// raceOnce lets 8 writers write one key under If-None-Match: *.
func raceOnce(t *testing.T, b *bucket, w writer, key string) {
	const racers = 8
	replies := make(chan *reply, racers)
	bodies := make([][]byte, racers)
	for i := range racers {
		bodies[i] = noise(1000+i*9000, byte(i)) // inline and not
	}
	start := make(chan struct{})
	var uploads []*upload
	if w.name == "CompleteMultipartUpload" {
		for i := range racers {
			u := b.create(key)
			u.part(1, bodies[i]).want(http.StatusOK)
			uploads = append(uploads, u)
		}
	}
	if w.name == "CopyObject" {
		for i := range racers {
			b.put(fmt.Sprintf("%s-source-%d", key, i), bodies[i])
		}
	}
	for i := range racers {
		go func() {
			<-start
			c := call{method: http.MethodPut, path: b.path(key), body: bodies[i], header: headers("If-None-Match", "*")}
			switch w.name {
			case "CompleteMultipartUpload":
				u := uploads[i]
				c.method, c.query, c.body = http.MethodPost, query("uploadId", u.id), []byte(u.partList(1))
			case "CopyObject":
				c.body = nil
				c.header.Set("x-amz-copy-source", fmt.Sprintf("/%s/%s-source-%d", b.name, key, i))
			}
			r, err := b.try(t.Context(), c)
			if err != nil {
				t.Errorf("%s: %v", key, err)
			}
			if r != nil && r.status == http.StatusOK {
				r.call = itoa(i) // who won
			}
			replies <- r
		}()
	}
	close(start)
	winner := -1
	for range racers {
		switch r := <-replies; {
		case r == nil:
		case r.status == http.StatusOK:
			if winner >= 0 {
				t.Errorf("%s: two writers got 200", key)
			}
			fmt.Sscan(r.call, &winner)
		case r.status == http.StatusConflict:
			r.wantErrorNoFatal("ConditionalRequestConflict")
		default:
			r.wantErrorNoFatal("PreconditionFailed")
		}
	}
	if winner < 0 {
		t.Fatalf("%s: nobody got 200", key)
	}
	b.get(key).want(http.StatusOK).wantBody(bodies[winner])
	for i, u := range uploads {
		if i != winner {
			u.abort()
		}
	}
}

// wantErrorNoFatal checks the code of an error and lets the test go on.
func (r *reply) wantErrorNoFatal(code string) {
	r.t.Helper()
	if e := r.anError(); e == nil || e.Code != code {
		r.t.Errorf("%s: status %d, %+v, want %s", r.call, r.status, e, code)
	}
}

// A counter that is kept by If-Match loses no increment.
func TestConditionalWritesCounter(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.put("counter", []byte("0"))
	const writers, increments = 4, 5
	errs := make(chan error, writers)
	for range writers {
		go func() { errs <- increment(t, b, increments) }()
	}
	for range writers {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	b.get("counter").want(http.StatusOK).wantBody([]byte(itoa(writers * increments)))
}

// increment adds one to the counter n times.
func increment(t *testing.T, b *bucket, n int) error {
	for tries := 0; n > 0; tries++ {
		if tries > 1000 {
			return fmt.Errorf("no progress after %d tries", tries)
		}
		r, err := b.try(t.Context(), call{method: http.MethodGet, path: b.path("counter")})
		if err != nil {
			return err
		}
		var value int
		if _, err := fmt.Sscan(string(r.body), &value); err != nil {
			return fmt.Errorf("read %q: %w", r.body, err)
		}
		w, err := b.try(t.Context(), call{
			method: http.MethodPut, path: b.path("counter"), body: []byte(itoa(value + 1)),
			header: headers("If-Match", r.header.Get("ETag")),
		})
		if err != nil {
			return err
		}
		switch w.status {
		case http.StatusOK:
			n--
		case http.StatusPreconditionFailed, http.StatusConflict:
		default:
			return fmt.Errorf("put: status %d: %s", w.status, w.body)
		}
	}
	return nil
}

// What was written is read and listed at once, and what was deleted is not.
func TestReadAfterWrite(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	for i := range 30 {
		key, data := fmt.Sprintf("k%02d", i%3), noise(1+i*1500, byte(i))
		tag := b.put(key, data).etag()
		b.get(key).want(http.StatusOK).wantBody(data)
		b.head(key).want(http.StatusOK).wantHeader("ETag", tag, "Content-Length", itoa(len(data)))
		if l := b.list("prefix", key); len(l.Contents) != 1 || l.Contents[0].ETag != tag || l.Contents[0].Size != int64(len(data)) {
			t.Fatalf("round %d: list %+v, want ETag %s", i, l.Contents, tag)
		}
		if i%2 == 1 {
			b.request(http.MethodDelete, key, nil).want(http.StatusNoContent)
			b.wantAbsent(key)
		}
	}
}
