package conformance

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// list lists the bucket by version 2 of the call, which must succeed.
func (b *bucket) list(pairs ...string) *listing {
	b.t.Helper()
	l := new(listing)
	b.bucketGet(append([]string{"list-type", "2"}, pairs...)...).wantXML("ListBucketResult", l)
	return l
}

// list1 lists the bucket by version 1 of the call, which must succeed.
func (b *bucket) list1(pairs ...string) *listing {
	b.t.Helper()
	l := new(listing)
	b.bucketGet(pairs...).wantXML("ListBucketResult", l)
	return l
}

// fill stores an empty object under each key.
func (b *bucket) fill(keys ...string) {
	b.t.Helper()
	for _, key := range keys {
		b.put(key, nil)
	}
}

// naiveList is the specification of a listing, worked out over all keys.
func naiveList(all []string, prefix, delimiter, after string, most int) (keys, common []string, last string, truncated bool) {
	keys, common = []string{}, []string{}
	all = slices.Clone(all)
	slices.Sort(all) // Go compares strings bytewise, as S3 does
	for _, key := range all {
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		item, isPrefix := key, false
		if delimiter != "" {
			if i := strings.Index(key[len(prefix):], delimiter); i >= 0 {
				item, isPrefix = key[:len(prefix)+i+len(delimiter)], true
			}
		}
		switch {
		case isPrefix && (len(common) > 0 && common[len(common)-1] == item):
			continue
		case isPrefix && after != "" && (item <= after || strings.HasPrefix(after, item)):
			continue
		case !isPrefix && after != "" && key <= after:
			continue
		}
		if len(keys)+len(common) == most {
			return keys, common, last, most > 0
		}
		if isPrefix {
			common = append(common, item)
		} else {
			keys = append(keys, item)
		}
		last = item
	}
	return keys, common, last, false
}

// listKeys are keys that sort differently by bytes, by locale and by path.
func listKeys() []string {
	return []string{
		"a", "a/", "a/b", "a/b/c", "a/b/d", "a//b", "a0", "aé", "az", "B", "b,x,1", "b,x,2", "b,y",
		"dir/one", "dir/sub/1", "dir/sub/2", "dir/two", "dir.", "dir0", "é/1", "é/2", "日本/語", "\U0001F600", "\uFFFD", "~",
	}
}

func TestListMatchesNaiveModel(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	all := listKeys()
	b.fill(all...)
	for _, prefix := range []string{"", "a", "a/", "dir/", "dir", "é", "none"} {
		for _, delimiter := range []string{"", "/", ",", "sub/", "x,", "é"} {
			for _, most := range []int{1, 3, 1000} {
				name := fmt.Sprintf("prefix=%q delimiter=%q max=%d", prefix, delimiter, most)
				for _, v2 := range []bool{false, true} {
					walkList(t, b, all, name, prefix, delimiter, most, v2)
				}
			}
		}
	}
}

// walkList follows a listing page by page beside the naive model.
func walkList(t *testing.T, b *bucket, all []string, name, prefix, delimiter string, most int, v2 bool) {
	t.Helper()
	after, token := "", ""
	for page := range len(all) + 1 {
		keys, common, last, truncated := naiveList(all, prefix, delimiter, after, most)
		args := []string{"prefix", prefix, "delimiter", delimiter, "max-keys", fmt.Sprint(most)}
		var l *listing
		if v2 {
			if token != "" {
				args = append(args, "continuation-token", token)
			}
			l = b.list(args...)
		} else {
			l = b.list1(append(args, "marker", after)...)
		}
		if diff := cmp.Diff(keys, l.keys()); diff != "" {
			t.Fatalf("%s v2=%v page %d: keys (-want +got)\n%s", name, v2, page, diff)
		}
		if diff := cmp.Diff(common, l.CommonPrefixes.names()); diff != "" {
			t.Fatalf("%s v2=%v page %d: common prefixes (-want +got)\n%s", name, v2, page, diff)
		}
		if l.IsTruncated == nil || *l.IsTruncated != truncated {
			t.Fatalf("%s v2=%v page %d: IsTruncated %v, want %v", name, v2, page, l.IsTruncated, truncated)
		}
		if !truncated {
			return
		}
		after = last
		switch {
		case v2 && l.NextContinuationToken == nil:
			t.Fatalf("%s page %d: truncated without NextContinuationToken", name, page)
		case v2:
			token = *l.NextContinuationToken
		case delimiter != "" && (l.NextMarker == nil || *l.NextMarker != last):
			t.Fatalf("%s page %d: NextMarker %v, want %q", name, page, l.NextMarker, last)
		case delimiter == "" && l.NextMarker != nil:
			t.Fatalf("%s page %d: NextMarker %q without a delimiter", name, page, *l.NextMarker)
		}
	}
	t.Fatalf("%s: the pages do not end", name)
}

func TestListFields(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	body := []byte("hello")
	before := time.Now().Add(-2 * time.Second)
	tag := b.put("dir/hello.txt", body).etag()
	for _, v2 := range []bool{false, true} {
		l := b.list1
		if v2 {
			l = b.list
		}
		got := l("prefix", "dir/")
		if got.Name != b.name || got.Prefix == nil || *got.Prefix != "dir/" || got.MaxKeys == nil || *got.MaxKeys != 1000 {
			t.Errorf("v2=%v: Name %q, Prefix %v, MaxKeys %v", v2, got.Name, got.Prefix, got.MaxKeys)
		}
		if len(got.Contents) != 1 {
			t.Fatalf("v2=%v: %d entries, want 1", v2, len(got.Contents))
		}
		o := got.Contents[0]
		if o.ETag != tag || o.Size != 5 || o.StorageClass != "STANDARD" {
			t.Errorf("v2=%v: entry %+v, want ETag %s, Size 5, StorageClass STANDARD", v2, o, tag)
		}
		stamp, err := time.Parse("2006-01-02T15:04:05.000Z", o.LastModified)
		if err != nil || stamp.Before(before.Truncate(time.Second)) || stamp.After(time.Now().Add(5*time.Second)) {
			t.Errorf("v2=%v: LastModified %q (%v)", v2, o.LastModified, err)
		}
		if v2 != (o.Owner == nil) {
			t.Errorf("v2=%v: Owner %v; version 1 has it always, version 2 only with fetch-owner", v2, o.Owner)
		}
		if v2 != (got.KeyCount != nil) {
			t.Errorf("v2=%v: KeyCount %v", v2, got.KeyCount)
		}
		if v2 == (got.Marker != nil) {
			t.Errorf("v2=%v: Marker %v", v2, got.Marker)
		}
	}
	if o := b.list("fetch-owner", "true").Contents[0].Owner; o == nil || o.ID == "" {
		t.Errorf("fetch-owner=true: Owner %+v", o)
	}
	if o := b.list("fetch-owner", "false").Contents[0].Owner; o != nil {
		t.Errorf("fetch-owner=false: Owner %+v", o)
	}
}

func TestListMaxKeys(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.fill("a", "b/1", "b/2", "c")
	for _, v2 := range []string{"1", "2"} {
		list := func(pairs ...string) *reply { return b.bucketGet(append([]string{"list-type", v2}, pairs...)...) }
		if v2 == "1" {
			list = b.bucketGet
		}
		for _, bad := range []string{"-1", "junk", "1.5", "99999999999999999999"} {
			list("max-keys", bad).wantError(http.StatusBadRequest, "InvalidArgument")
		}
		var l listing
		list("max-keys", "0").wantXML("ListBucketResult", &l)
		if len(l.Contents) != 0 || *l.IsTruncated || *l.MaxKeys != 0 {
			t.Errorf("list-type=%s max-keys=0: %d keys, IsTruncated %v, MaxKeys %d", v2, len(l.Contents), *l.IsTruncated, *l.MaxKeys)
		}
		l = listing{}
		list("max-keys", "5000").wantXML("ListBucketResult", &l)
		if *l.MaxKeys != 1000 || len(l.Contents) != 4 {
			t.Errorf("list-type=%s max-keys=5000: MaxKeys %d, want the cap of 1000", v2, *l.MaxKeys)
		}
		// Keys and common prefixes count together.
		l = listing{}
		list("max-keys", "2", "delimiter", "/").wantXML("ListBucketResult", &l)
		if len(l.Contents) != 1 || len(l.CommonPrefixes) != 1 || !*l.IsTruncated {
			t.Errorf("list-type=%s max-keys=2: %v %v truncated %v", v2, l.keys(), l.CommonPrefixes.names(), *l.IsTruncated)
		}
		if v2 == "2" && *l.KeyCount != 2 {
			t.Errorf("KeyCount %d, want 2: prefixes count", *l.KeyCount)
		}
	}
}

func TestListTokens(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.fill("a", "b", "c", "d")

	t.Run("empty token is accepted and echoed", func(t *testing.T) {
		l := b.with(t).list("continuation-token", "")
		if l.ContinuationToken == nil || *l.ContinuationToken != "" || len(l.Contents) != 4 {
			t.Errorf("ContinuationToken %v, %d keys", l.ContinuationToken, len(l.Contents))
		}
	})
	t.Run("start-after", func(t *testing.T) {
		l := b.with(t).list("start-after", "b")
		if diff := cmp.Diff([]string{"c", "d"}, l.keys()); diff != "" || l.StartAfter == nil || *l.StartAfter != "b" {
			t.Errorf("keys (-want +got)\n%s, StartAfter %v", diff, l.StartAfter)
		}
	})
	t.Run("the token wins over start-after, both are echoed", func(t *testing.T) {
		b := b.with(t)
		token := *b.list("max-keys", "1").NextContinuationToken
		l := b.list("continuation-token", token, "start-after", "c")
		if diff := cmp.Diff([]string{"b", "c", "d"}, l.keys()); diff != "" {
			t.Errorf("keys (-want +got)\n%s", diff)
		}
		if l.ContinuationToken == nil || *l.ContinuationToken != token || l.StartAfter == nil || *l.StartAfter != "c" {
			t.Errorf("ContinuationToken %v, StartAfter %v", l.ContinuationToken, l.StartAfter)
		}
	})
	t.Run("a token that is none", func(t *testing.T) {
		b.with(t).bucketGet("list-type", "2", "continuation-token", "\x00no token").wantError(http.StatusBadRequest, "InvalidArgument")
	})
	t.Run("past the end", func(t *testing.T) {
		b := b.with(t)
		if l := b.list("start-after", "zzz"); len(l.Contents) != 0 || *l.IsTruncated {
			t.Errorf("start-after past the end: %v", l.keys())
		}
		if l := b.list1("marker", "zzz"); len(l.Contents) != 0 || *l.IsTruncated || *l.Marker != "zzz" {
			t.Errorf("marker past the end: %v", l.keys())
		}
		if l := b.list1("marker", "bb"); len(l.Contents) != 2 {
			t.Errorf("marker that is no key: %v", l.keys())
		}
	})
	t.Run("a marker outside the prefix", func(t *testing.T) {
		if l := b.with(t).list1("prefix", "b", "marker", "a"); len(l.Contents) != 1 {
			t.Errorf("marker before the prefix: %v", l.keys())
		}
	})
}

// Source: AWS, ListObjectsV2, "encoding-type"; the encoded form is that of
// java.net.URLEncoder with %20 for a space and "/" left alone.
func TestListEncodingType(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	key := "dir one/a+b c%20d&e=é?\x01.txt"
	encoded := "dir%20one/a%2Bb%20c%2520d%26e%3D%C3%A9%3F%01.txt"
	b.fill(key, "dir one/x y/z")

	l := b.list("encoding-type", "url", "prefix", "dir one/", "delimiter", " ", "start-after", "dir ")
	if *l.EncodingType != "url" || *l.Prefix != "dir%20one/" || *l.Delimiter != "%20" || *l.StartAfter != "dir%20" {
		t.Errorf("EncodingType %q, Prefix %q, Delimiter %q, StartAfter %q", *l.EncodingType, *l.Prefix, *l.Delimiter, *l.StartAfter)
	}
	want := []string{"dir%20one/a%2Bb%20", "dir%20one/x%20"}
	if diff := cmp.Diff(want, l.CommonPrefixes.names()); diff != "" {
		t.Errorf("common prefixes (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]string{encoded, "dir%20one/x%20y/z"}, b.list("encoding-type", "url").keys()); diff != "" {
		t.Errorf("keys (-want +got)\n%s", diff)
	}
	l = b.list1("encoding-type", "url", "marker", "dir one/b b", "max-keys", "1", "delimiter", "none at all")
	if *l.Marker != "dir%20one/b%20b" {
		t.Errorf("Marker %q", *l.Marker)
	}
	if l.Delimiter == nil || *l.Delimiter != "none%20at%20all" {
		t.Errorf("Delimiter %v", l.Delimiter)
	}
	l = b.list1("encoding-type", "url", "max-keys", "1", "delimiter", "/z")
	if l.NextMarker == nil || *l.NextMarker != encoded {
		t.Errorf("NextMarker %v, want %q", l.NextMarker, encoded)
	}
	for _, version := range []string{"1", "2"} {
		b.bucketGet("list-type", version, "encoding-type", "base64").wantError(http.StatusBadRequest, "InvalidArgument")
	}
	if l := b.list("prefix", "dir one/x"); l.EncodingType != nil || l.keys()[0] != "dir one/x y/z" {
		t.Errorf("without encoding-type: EncodingType %v, keys %v", l.EncodingType, l.keys())
	}
}

// Keys that end in "/" are objects like others and are listed once.
func TestListDirectoryKeys(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.fill("dir/", "dir/a")
	if diff := cmp.Diff([]string{"dir/", "dir/a"}, b.list().keys()); diff != "" {
		t.Errorf("keys (-want +got)\n%s", diff)
	}
	l := b.list("delimiter", "/")
	if len(l.Contents) != 0 || !slices.Equal(l.CommonPrefixes.names(), []string{"dir/"}) {
		t.Errorf("with delimiter: %v %v", l.keys(), l.CommonPrefixes.names())
	}
	l = b.list("delimiter", "/", "prefix", "dir/")
	if !slices.Equal(l.keys(), []string{"dir/", "dir/a"}) || len(l.CommonPrefixes) != 0 {
		t.Errorf("with delimiter and prefix: %v %v", l.keys(), l.CommonPrefixes.names())
	}
}

func TestListOfMissingBucket(t *testing.T) {
	t.Parallel()
	c := connect(t)
	for _, q := range [][]string{{"list-type", "2"}, {}, {"versions?"}, {"uploads?"}} {
		c.do(call{method: http.MethodGet, path: "/" + randomName(), query: query(q...)}).wantError(http.StatusNotFound, "NoSuchBucket")
	}
}

// More than a thousand keys come in pages of a thousand.
func TestListThousandKeys(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	const total = 1001
	work := make(chan string)
	done := make(chan error)
	for range 8 {
		go func() {
			var first error
			for key := range work {
				r, err := b.try(t.Context(), call{method: http.MethodPut, path: b.path(key)})
				if err == nil && r.status != http.StatusOK {
					err = fmt.Errorf("put %s: status %d: %s", key, r.status, r.body)
				}
				if first == nil {
					first = err
				}
			}
			done <- first
		}()
	}
	for i := range total {
		work <- fmt.Sprintf("k%04d", i)
	}
	close(work)
	for range 8 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	l := b.list()
	if len(l.Contents) != 1000 || *l.KeyCount != 1000 || !*l.IsTruncated {
		t.Fatalf("first page: %d keys, KeyCount %d, truncated %v", len(l.Contents), *l.KeyCount, *l.IsTruncated)
	}
	l = b.list("continuation-token", *l.NextContinuationToken)
	if diff := cmp.Diff([]string{"k1000"}, l.keys()); diff != "" || *l.IsTruncated {
		t.Errorf("second page (-want +got)\n%s", diff)
	}
	// The same objects go by two requests for 1,000 and 1.
	var keys []string
	for i := range total {
		keys = append(keys, fmt.Sprintf("k%04d", i))
	}
	for chunk := range slices.Chunk(keys, 1000) {
		var out deleted
		b.deleteMany(deleteBody(true, chunk...)).wantXML("DeleteResult", &out)
		if len(out.Error) > 0 {
			t.Fatalf("%d errors, first %+v", len(out.Error), out.Error[0])
		}
	}
	if l := b.list(); len(l.Contents) != 0 {
		t.Errorf("%d keys are left", len(l.Contents))
	}
}
