package linear

import (
	"crypto/md5"
	"encoding/xml"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// lie is what a fake server does wrongly, now and then.
type lie string

const (
	honest       lie = "honest"
	losesWrites  lie = "says that it wrote and does not"
	staleReads   lie = "reads what was there before"
	staleLists   lie = "lists what was there before"
	resurrects   lie = "has deletes undone later"
	manyFirsts   lie = "does not look for the object of If-None-Match"
	raceSets     lie = "does not compare"
	completesTwo lie = "completes an upload that is done once more"
	hangsUp      lie = "ends connections without an answer"
	late         lie = "writes late what it has not answered"
)

// stored is an object of a fake server.
type stored struct {
	body     []byte
	etag, id string
}

// fake is a server in memory that understands what a Load asks.
type fake struct {
	lie lie

	mu      sync.Mutex // guards what follows
	rand    *rand.Rand
	now     map[string]*stored
	before  map[string]*stored
	uploads map[string]*stored // by id; nil once aborted
	done    map[string]bool
	next    int
	told    int // lies
}

func newFake(l lie) *fake {
	return &fake{lie: l, rand: rand.New(rand.NewPCG(1, 2)), now: make(map[string]*stored), before: make(map[string]*stored),
		uploads: make(map[string]*stored), done: make(map[string]bool)}
}

// lies reports whether it is time for this lie.
func (f *fake) lies(l lie) bool {
	often := 10
	if l == completesTwo {
		often = 2 // there are few occasions
	}
	if f.lie != l || f.rand.IntN(often) != 0 {
		return false
	}
	f.told++
	return true
}

func (f *fake) set(key string, o *stored) {
	f.before[key] = f.now[key]
	f.now[key] = o
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	_, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	query := r.URL.Query()
	switch {
	case f.lies(hangsUp):
		panic(http.ErrAbortHandler)
	case key == "":
		f.list(w, query.Get("prefix"))
	case query.Has("uploads"):
		f.next++
		id := fmt.Sprint(f.next)
		f.uploads[id] = &stored{id: r.Header.Get(idHeader)}
		answerXML(w, http.StatusOK, "<R><UploadId>"+id+"</UploadId></R>")
	case query.Has("uploadId"):
		f.upload(w, r, key, query.Get("uploadId"), body)
	case r.Method == http.MethodPut:
		f.put(w, r, key, body)
	case r.Method == http.MethodDelete:
		f.delete(w, r, key)
	default:
		f.get(w, r, key)
	}
}

func (f *fake) put(w http.ResponseWriter, r *http.Request, key string, body []byte) {
	o := &stored{body: body, etag: sum(body), id: r.Header.Get(idHeader)}
	if from := r.Header.Get("X-Amz-Copy-Source"); from != "" {
		_, name, _ := strings.Cut(strings.TrimPrefix(from, "/"), "/")
		source := f.now[name]
		if failed(w, source, r.Header.Get("X-Amz-Copy-Source-If-Match"), "") {
			return
		}
		o.body, o.etag = source.body, source.etag
	}
	if !f.lies(raceSets) && failed(w, f.now[key], r.Header.Get("If-Match"), "") ||
		!f.lies(manyFirsts) && failed(w, f.now[key], "", r.Header.Get("If-None-Match")) {
		return
	}
	switch {
	case f.lies(losesWrites):
	case len(r.Header["If-Match"])+len(r.Header["If-None-Match"])+len(r.Header["X-Amz-Copy-Source"]) == 0 && f.lies(late):
		time.AfterFunc(10*time.Millisecond, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.set(key, o)
		})
		panic(http.ErrAbortHandler)
	default:
		f.set(key, o)
	}
	w.Header().Set("ETag", `"`+o.etag+`"`)
	if r.Header.Get("X-Amz-Copy-Source") != "" {
		answerXML(w, http.StatusOK, "<R><ETag>"+o.etag+"</ETag></R>")
	}
}

func (f *fake) delete(w http.ResponseWriter, r *http.Request, key string) {
	if m := r.Header.Get("If-Match"); m != "" && failed(w, f.now[key], m, "") {
		return
	}
	if o := f.now[key]; o != nil && f.lies(resurrects) {
		time.AfterFunc(20*time.Millisecond, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.set(key, o)
		})
	}
	f.set(key, nil)
	w.WriteHeader(http.StatusNoContent)
}

func (f *fake) get(w http.ResponseWriter, r *http.Request, key string) {
	o := f.now[key]
	if f.lies(staleReads) {
		o = f.before[key]
	}
	if o == nil {
		answerXML(w, http.StatusNotFound, "<Error><Code>NoSuchKey</Code></Error>")
		return
	}
	if failed(w, o, r.Header.Get("If-Match"), r.Header.Get("If-None-Match")) {
		return
	}
	w.Header().Set("ETag", `"`+o.etag+`"`)
	w.Header().Set(idHeader, o.id)
	w.Write(o.body)
}

// failed answers a condition that is not met.
func failed(w http.ResponseWriter, o *stored, match, none string) bool {
	match, none = trim(match), trim(none)
	switch {
	case match != "" && o == nil:
		answerXML(w, http.StatusNotFound, "<Error><Code>NoSuchKey</Code></Error>")
	case match != "" && o.etag != match, o != nil && (none == "*" || none == o.etag):
		answerXML(w, http.StatusPreconditionFailed, "<Error><Code>PreconditionFailed</Code></Error>")
	default:
		return false
	}
	return true
}

func (f *fake) upload(w http.ResponseWriter, r *http.Request, key, id string, body []byte) {
	u := f.uploads[id]
	switch {
	case u == nil && f.done[id]:
		u = &stored{}
	case u == nil:
		answerXML(w, http.StatusNotFound, "<Error><Code>NoSuchUpload</Code></Error>")
		return
	}
	switch r.Method {
	case http.MethodPut:
		u.body, u.etag = body, partSum(body)
	case http.MethodDelete:
		if f.done[id] {
			answerXML(w, http.StatusNotFound, "<Error><Code>NoSuchUpload</Code></Error>")
			return
		}
		delete(f.uploads, id)
		w.WriteHeader(http.StatusNoContent)
	default:
		if !f.done[id] && failed(w, f.now[key], r.Header.Get("If-Match"), r.Header.Get("If-None-Match")) {
			return
		}
		if !f.done[id] || f.lies(completesTwo) {
			f.set(key, u)
		}
		f.done[id] = true
		answerXML(w, http.StatusOK, "<R><ETag>"+u.etag+"</ETag></R>")
	}
}

func (f *fake) list(w http.ResponseWriter, prefix string) {
	objects := f.now
	if f.lies(staleLists) {
		objects = f.before
	}
	var page strings.Builder
	for _, key := range slices.Sorted(func(yield func(string) bool) {
		for key, o := range objects {
			if o != nil && strings.HasPrefix(key, prefix) && !yield(key) {
				return
			}
		}
	}) {
		fmt.Fprintf(&page, "<Contents><Key>%s</Key><ETag>%s</ETag></Contents>", key, objects[key].etag)
	}
	answerXML(w, http.StatusOK, "<R>"+page.String()+"</R>")
}

func answerXML(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	io.WriteString(w, text)
}

// TestLoadFindsLies runs the clients against servers that are honest, and such
// that are not: each of these is found out.
func TestLoadFindsLies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		lie  lie
		good bool
	}{
		{honest, true}, {hangsUp, true}, {late, true},
		{losesWrites, false}, {staleReads, false}, {staleLists, false}, {resurrects, false},
		{manyFirsts, false}, {raceSets, false}, {completesTwo, false},
	} {
		t.Run(string(c.lie), func(t *testing.T) {
			t.Parallel()
			f := newFake(c.lie)
			server := httptest.NewServer(f)
			defer server.Close()
			l := New(Options{AccessKey: "a", SecretKey: "s", Region: "r", Bucket: "b", Seed: 1, Clients: 6, Calls: 3000, LargeBytes: 1000})
			defer l.Close()
			l.Serve(server.URL)
			err := l.Run(t.Context())
			if err == nil {
				err = l.Sweep(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
			found := l.Check(time.Minute)
			if (found == nil) != c.good {
				t.Errorf("after %d lies: %v", f.told, found)
			}
			if c.lie != honest && f.told == 0 {
				t.Error("the server never lied")
			}
			t.Logf("%+v, %d lies", l.Counts(), f.told)
		})
	}
}

func TestSums(t *testing.T) {
	t.Parallel()
	one := md5.Sum([]byte("x"))
	if got := sum([]byte("x")); got != fmt.Sprintf("%x", one) {
		t.Errorf("sum %s", got)
	}
	if got := partSum([]byte("x")); got != fmt.Sprintf("%x-1", md5.Sum(one[:])) {
		t.Errorf("sum of one part %s", got)
	}
	var page listing
	if err := xml.Unmarshal([]byte("<R><Contents><Key>k</Key><ETag>&quot;e&quot;</ETag></Contents></R>"), &page); err != nil || trim(page.Contents[0].ETag) != "e" {
		t.Errorf("%+v, %v", page, err)
	}
}
