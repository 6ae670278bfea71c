package conformance

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func itoa(n int) string { return strconv.Itoa(n) }

// An upload is a multipart upload in progress.
type upload struct {
	*bucket
	key, id string
	reply   *reply         // of Create
	tags    map[int]string // ETag of each part
	sums    map[int]string // checksum element of each part that was sent with one
}

// create starts a multipart upload, which must succeed.
func (b *bucket) create(key string, pairs ...string) *upload {
	b.t.Helper()
	var out created
	r := b.do(call{method: http.MethodPost, path: b.path(key), query: query("uploads?"), header: headers(pairs...)})
	r.wantXML("InitiateMultipartUploadResult", &out)
	if out.Bucket != b.name || out.Key != key || out.UploadID == "" {
		b.t.Fatalf("create %q: %+v", key, out)
	}
	return &upload{bucket: b, key: key, id: out.UploadID, reply: r, tags: map[int]string{}, sums: map[int]string{}}
}

// with returns the same upload for a subtest.
func (u *upload) with(t *testing.T) *upload {
	return &upload{bucket: u.bucket.with(t), key: u.key, id: u.id, reply: u.reply, tags: u.tags, sums: u.sums}
}

// part uploads a part; it may fail.
func (u *upload) part(number int, data []byte, pairs ...string) *reply {
	u.t.Helper()
	r := u.do(call{
		method: http.MethodPut, path: u.path(u.key), body: data, header: headers(pairs...),
		query: query("partNumber", itoa(number), "uploadId", u.id),
	})
	if r.status == http.StatusOK {
		u.tags[number] = r.etag()
		for _, c := range checksums() {
			if sum := headers(pairs...).Get(c.header); sum != "" {
				u.sums[number] = fmt.Sprintf("<Checksum%s>%s</Checksum%s>", c.name, sum, c.name)
			}
		}
	}
	return r
}

// partList writes the body of Complete for the parts with these numbers, with
// the checksums that the client knows, as the SDKs do.
func (u *upload) partList(numbers ...int) string {
	var out strings.Builder
	out.WriteString(`<CompleteMultipartUpload xmlns="` + namespace + `">`)
	for _, n := range numbers {
		fmt.Fprintf(&out, "<Part><PartNumber>%d</PartNumber><ETag>%s</ETag>%s</Part>", n, u.tags[n], u.sums[n])
	}
	out.WriteString("</CompleteMultipartUpload>")
	return out.String()
}

// numbers lists the parts that were uploaded, in order.
func (u *upload) numbers() []int {
	var numbers []int
	for n := 1; n <= 10000 && len(numbers) < len(u.tags); n++ {
		if u.tags[n] != "" {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// send asks to complete the upload with this body; it may fail.
func (u *upload) send(body string, pairs ...string) *reply {
	u.t.Helper()
	return u.do(call{
		method: http.MethodPost, path: u.path(u.key), query: query("uploadId", u.id), body: []byte(body), header: headers(pairs...),
	})
}

// tryComplete asks to complete the upload with all parts; it may fail.
func (u *upload) tryComplete(pairs ...string) *reply {
	u.t.Helper()
	return u.send(u.partList(u.numbers()...), pairs...)
}

// complete completes the upload with all parts, which must succeed.
func (u *upload) complete(pairs ...string) *completed {
	u.t.Helper()
	var out completed
	u.tryComplete(pairs...).wantXML("CompleteMultipartUploadResult", &out)
	if out.Bucket != u.name || out.Key != u.key || !strings.Contains(out.Location, u.name) {
		u.t.Errorf("complete %q: %+v", u.key, out)
	}
	return &out
}

// multipartTag is the ETag of a multipart object.
func multipartTag(parts ...[]byte) string {
	var sums []byte
	for _, p := range parts {
		sum := md5.Sum(p)
		sums = append(sums, sum[:]...)
	}
	sum := md5.Sum(sums)
	return `"` + hex.EncodeToString(sum[:]) + "-" + itoa(len(parts)) + `"`
}

func TestMultipart(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	first, second := noise(minPart, 20), noise(123457, 21)
	whole := append(bytes.Clone(first), second...)
	u := b.create("dir/multi part.bin", "Content-Type", "text/x-test", "x-amz-meta-color", "blue", "Cache-Control", "no-store")
	b.wantAbsent(u.key)
	sum := md5.Sum(second)
	u.part(2, second, "Content-MD5", contentMD5(second)).want(http.StatusOK).wantHeader("ETag", `"`+hex.EncodeToString(sum[:])+`"`)
	u.part(1, first).want(http.StatusOK)
	b.wantAbsent(u.key)

	want := multipartTag(first, second)
	done := u.complete()
	if done.ETag != want {
		t.Errorf("ETag %s, want %s", done.ETag, want)
	}
	b.get(u.key).want(http.StatusOK).wantBody(whole).
		wantHeader("ETag", want, "Content-Type", "text/x-test", "X-Amz-Meta-Color", "blue", "Cache-Control", "no-store")
	if o := b.list("prefix", "dir/").Contents[0]; o.ETag != want || o.Size != int64(len(whole)) {
		t.Errorf("list: %+v", o)
	}

	t.Run("Complete again", func(t *testing.T) {
		if again := u.with(t).complete(); again.ETag != want || *again != *done {
			t.Errorf("the second answer is %+v, the first was %+v", again, done)
		}
	})
	t.Run("range across parts", func(t *testing.T) {
		b.with(t).get(u.key, "Range", fmt.Sprintf("bytes=%d-%d", minPart-10, minPart+9)).want(http.StatusPartialContent).
			wantBody(whole[minPart-10 : minPart+10])
	})
	t.Run("part numbers", func(t *testing.T) { readParts(t, b.with(t), u.key, want, first, second) })
	t.Run("attributes", func(t *testing.T) { multipartAttributes(t, b.with(t), u.key, want, int64(len(whole))) })
	t.Run("copy of a part", func(t *testing.T) { copyParts(t, b.with(t), u.key, whole) })
}

// readParts checks ?partNumber= on GET and HEAD.
func readParts(t *testing.T, b *bucket, key, tag string, parts ...[]byte) {
	whole := bytes.Join(parts, nil)
	at := 0
	for i, p := range parts {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			r := b.do(call{method: method, path: b.path(key), query: query("partNumber", itoa(i+1))}).want(http.StatusPartialContent)
			r.wantHeader("X-Amz-Mp-Parts-Count", itoa(len(parts)), "ETag", tag, "Content-Length", itoa(len(p)),
				"Content-Range", fmt.Sprintf("bytes %d-%d/%d", at, at+len(p)-1, len(whole)))
			if method == http.MethodGet {
				r.wantBody(p)
			}
		}
		at += len(p)
	}
	part := func(number string, pairs ...string) *reply {
		return b.do(call{method: http.MethodGet, path: b.path(key), query: query("partNumber", number), header: headers(pairs...)})
	}
	part("3").wantError(http.StatusRequestedRangeNotSatisfiable, "InvalidPartNumber")
	part("1", "Range", "bytes=0-1").wantError(http.StatusBadRequest, "InvalidRequest")
	for _, bad := range []string{"0", "-1", "10001", "x"} {
		part(bad).wantError(http.StatusBadRequest, "InvalidArgument")
	}
	b.put("simple", []byte("simple"))
	get := call{method: http.MethodGet, path: b.path("simple"), query: query("partNumber", "1")}
	b.do(get).want(http.StatusPartialContent).wantBody([]byte("simple"))
	get.query = query("partNumber", "2")
	b.do(get).wantError(http.StatusRequestedRangeNotSatisfiable, "InvalidPartNumber")
}

// multipartAttributes checks GetObjectAttributes of an object of two parts.
func multipartAttributes(t *testing.T, b *bucket, key, tag string, size int64) {
	ask := func(pairs ...string) *attributes {
		t.Helper()
		a := new(attributes)
		pairs = append(pairs, "x-amz-object-attributes", "ETag,ObjectParts,ObjectSize,StorageClass")
		b.do(call{method: http.MethodGet, path: b.path(key), query: query("attributes?"), header: headers(pairs...)}).
			wantXML("GetObjectAttributesResponse", a)
		return a
	}
	a := ask()
	if a.ETag == nil || `"`+*a.ETag+`"` != tag || a.ObjectSize == nil || *a.ObjectSize != size {
		t.Errorf("attributes: %+v", a)
	}
	if a.ObjectParts == nil || a.ObjectParts.PartsCount != 2 {
		t.Fatalf("ObjectParts %+v, want 2 parts", a.ObjectParts)
	}
	p := ask("x-amz-max-parts", "1").ObjectParts
	if p.IsTruncated == nil || !*p.IsTruncated || p.NextPartNumberMarker == nil || *p.NextPartNumberMarker != 1 || *p.MaxParts != 1 {
		t.Errorf("first page: %+v", p)
	}
	p = ask("x-amz-max-parts", "1", "x-amz-part-number-marker", "1").ObjectParts
	if *p.IsTruncated || *p.PartNumberMarker != 1 {
		t.Errorf("second page: %+v", p)
	}
}

// copyParts checks UploadPartCopy, whole and by range.
func copyParts(t *testing.T, b *bucket, source string, whole []byte) {
	u := b.create("copied")
	from := "/" + b.name + "/" + uriEncode(source, false)
	copyPart := func(number int, pairs ...string) *reply {
		t.Helper()
		return u.part2(number, append([]string{"x-amz-copy-source", from}, pairs...)...)
	}
	var out copied
	first := whole[10 : 10+minPart]
	r := copyPart(1, "x-amz-copy-source-range", fmt.Sprintf("bytes=10-%d", 10+minPart-1))
	r.wantXML("CopyPartResult", &out)
	sum := md5.Sum(first)
	if out.ETag != `"`+hex.EncodeToString(sum[:])+`"` || out.LastModified == "" {
		t.Errorf("CopyPartResult %+v", out)
	}
	u.tags[1] = out.ETag
	out = copied{}
	copyPart(2).wantXML("CopyPartResult", &out)
	u.tags[2] = out.ETag
	for _, bad := range []string{"bytes=0", "bytes=-5", "bytes=5-", "0-4", "bytes=4-0", "bytes=0-4,6-8", "bytes=a-b", "bytes= 0-4"} {
		copyPart(3, "x-amz-copy-source-range", bad).wantError(http.StatusBadRequest, "InvalidArgument")
	}
	// Source: AWS, UploadPartCopy: a range beyond the end; recorded both as
	// 416 and as 400.
	r = copyPart(3, "x-amz-copy-source-range", fmt.Sprintf("bytes=0-%d", len(whole)))
	if e := r.anError(); e == nil || e.Code != "InvalidRange" && e.Code != "InvalidArgument" {
		t.Errorf("range beyond the end: status %d, %+v", r.status, e)
	}
	copyPart(3, "x-amz-copy-source-if-match", `"00000000000000000000000000000000"`).wantError(http.StatusPreconditionFailed, "PreconditionFailed")
	u.part2(3, "x-amz-copy-source", "/"+b.name+"/missing").wantError(http.StatusNotFound, "NoSuchKey")
	u.part2(3, "x-amz-copy-source", "/"+randomName()+"/key").wantError(http.StatusNotFound, "NoSuchBucket")
	u.complete()
	b.get("copied").want(http.StatusOK).wantBody(append(bytes.Clone(first), whole...))
}

// part2 sends a part request that has only headers.
func (u *upload) part2(number int, pairs ...string) *reply {
	u.t.Helper()
	return u.do(call{
		method: http.MethodPut, path: u.path(u.key), header: headers(pairs...),
		query: query("partNumber", itoa(number), "uploadId", u.id),
	})
}

func TestMultipartOnePart(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	for name, data := range map[string][]byte{"small": []byte("x"), "empty": {}} {
		u := b.create(name)
		u.part(7, data).want(http.StatusOK)
		if done := u.complete(); done.ETag != multipartTag(data) {
			t.Errorf("%s: ETag %s, want %s", name, done.ETag, multipartTag(data))
		}
		b.get(name).want(http.StatusOK).wantBody(data).wantHeader("ETag", multipartTag(data))
	}
}

func TestMultipartCompleteErrors(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	u := b.create("key")
	u.part(1, []byte("one")).want(http.StatusOK)
	u.part(2, []byte("two")).want(http.StatusOK)
	u.tags[3] = `"00000000000000000000000000000000"`
	u.tags[5] = u.tags[1]
	entry := func(number, tag string) string {
		return "<CompleteMultipartUpload><Part><PartNumber>" + number + "</PartNumber><ETag>" + tag + "</ETag></Part></CompleteMultipartUpload>"
	}
	for _, tt := range []struct{ name, body, code string }{
		{"empty body", "", "MalformedXML"},
		{"no parts", "<CompleteMultipartUpload></CompleteMultipartUpload>", "MalformedXML"},
		{"no XML", "{}", "MalformedXML"},
		{"cut off", "<CompleteMultipartUpload><Part>", "MalformedXML"},
		{"no number", "<CompleteMultipartUpload><Part><ETag>" + u.tags[1] + "</ETag></Part></CompleteMultipartUpload>", "MalformedXML"},
		{"number is no number", entry("one", u.tags[1]), "MalformedXML"},
		{"descending", u.partList(2, 1), "InvalidPartOrder"},
		{"twice the same", u.partList(1, 1), "InvalidPartOrder"},
		{"unknown part", u.partList(5), "InvalidPart"},
		{"wrong ETag", entry("1", `"00000000000000000000000000000000"`), "InvalidPart"},
		{"ETag of another part", entry("1", u.tags[2]), "InvalidPart"},
		{"number 0", entry("0", u.tags[1]), "InvalidArgument"},
		{"negative number", entry("-1", u.tags[1]), "InvalidArgument"},
		{"first part too small", u.partList(1, 2), "EntityTooSmall"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u.with(t).send(tt.body).wantError(http.StatusBadRequest, tt.code)
		})
	}
	r := u.send(entry("10001", u.tags[1]))
	if e := r.anError(); e == nil || e.Code != "InvalidArgument" && e.Code != "InvalidPart" {
		t.Errorf("number 10001: status %d %+v, want InvalidArgument or InvalidPart", r.status, e)
	}
	// None of these did harm: it can still be completed, by ETags without
	// quotes and in XML without a namespace.
	r = u.send(entry("2", strings.Trim(u.tags[2], `"`)))
	r.wantXML("CompleteMultipartUploadResult", nil)
	b.get("key").want(http.StatusOK).wantBody([]byte("two"))
}

func TestMultipartPartNumbers(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	u := b.create("key")
	for _, bad := range []string{"0", "-1", "10001", "99999999999", "x", ""} {
		u.do(call{method: http.MethodPut, path: b.path("key"), query: query("partNumber", bad, "uploadId", u.id), body: []byte("x")}).
			wantError(http.StatusBadRequest, "InvalidArgument")
	}
	u.part(10000, []byte("last")).want(http.StatusOK)
	u.complete()
	b.get("key").want(http.StatusOK).wantBody([]byte("last"))
	// A part number without an upload is not an upload of an object.
	b.do(call{method: http.MethodPut, path: b.path("other"), query: query("partNumber", "1"), body: []byte("x")}).
		wantError(http.StatusBadRequest, "InvalidArgument", "InvalidRequest")
	b.wantAbsent("other")
}

func TestMultipartUnknownUpload(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	real := b.create("real")
	for _, id := range []string{"none", "VXBsb2FkIElEIGZvciA2aWWpbmcncyBteS1tb3ZpZS5tMnRzIHVwbG9hZA", strings.Repeat("0", 64), "../..", "%00", "é", real.id + "0"} {
		u := &upload{bucket: b, key: "key", id: id, tags: map[int]string{1: `"d41d8cd98f00b204e9800998ecf8427e"`}}
		u.part(1, []byte("x")).wantError(http.StatusNotFound, "NoSuchUpload")
		u.tryComplete().wantError(http.StatusNotFound, "NoSuchUpload")
		u.abort().wantError(http.StatusNotFound, "NoSuchUpload")
		u.do(call{method: http.MethodGet, path: b.path("key"), query: query("uploadId", id)}).wantError(http.StatusNotFound, "NoSuchUpload")
		u.part2(1, "x-amz-copy-source", "/"+b.name+"/missing").anError()
	}
	// An upload belongs to its key.
	other := &upload{bucket: b, key: "other", id: real.id, tags: map[int]string{}}
	other.part(1, []byte("x")).wantError(http.StatusNotFound, "NoSuchUpload")
	other.abort().wantError(http.StatusNotFound, "NoSuchUpload")
	real.part(1, []byte("x")).want(http.StatusOK)
	real.complete()
}

// abort aborts the upload; it may fail.
func (u *upload) abort(pairs ...string) *reply {
	u.t.Helper()
	return u.do(call{method: http.MethodDelete, path: u.path(u.key), query: query("uploadId", u.id), header: headers(pairs...)})
}

func TestMultipartAbort(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	u := b.create("key")
	u.part(1, noise(100*kib, 22)).want(http.StatusOK)
	u.abort().want(http.StatusNoContent)
	u.part(2, []byte("x")).wantError(http.StatusNotFound, "NoSuchUpload")
	u.tryComplete().wantError(http.StatusNotFound, "NoSuchUpload")
	u.abort().wantError(http.StatusNotFound, "NoSuchUpload")
	b.wantAbsent("key")
	if l := b.uploads(); len(l.Upload) != 0 {
		t.Errorf("uploads are left: %+v", l.Upload)
	}
	// Aborting a finished upload leaves the object alone.
	u = b.create("key")
	u.part(1, []byte("done")).want(http.StatusOK)
	u.complete()
	u.abort()
	b.get("key").want(http.StatusOK).wantBody([]byte("done"))
}

// A part that is uploaded again replaces the former one.
func TestMultipartPartAgain(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	u := b.create("key")
	old := u.part(1, []byte("old")).etag()
	u.part(1, []byte("newer")).want(http.StatusOK)
	u.send("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>"+old+"</ETag></Part></CompleteMultipartUpload>").
		wantError(http.StatusBadRequest, "InvalidPart")
	u.complete()
	b.get("key").want(http.StatusOK).wantBody([]byte("newer"))
}

// A part that is uploaded again while its first upload still runs: the last one
// to finish wins.
func TestMultipartPartTwiceAtOnce(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	u := b.create("key")
	slow, fast := noise(300*kib, 23), noise(200*kib, 24)
	wire := b.sign(call{method: http.MethodPut, path: b.path("key"), query: query("partNumber", "1", "uploadId", u.id), body: slow}).wire()
	nc := b.dial()
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(callLimit))
	half := len(wire) / 2
	if _, err := nc.Write(wire[:half]); err != nil {
		t.Fatal(err)
	}
	u.part(1, fast).want(http.StatusOK)
	if _, err := nc.Write(wire[half:]); err != nil {
		t.Fatal(err)
	}
	r, err := readReply(t, bufio.NewReader(nc), "PUT slow part")
	if err != nil {
		t.Fatal(err)
	}
	u.tags[1] = r.want(http.StatusOK).etag()
	u.complete()
	b.get("key").want(http.StatusOK).wantBody(slow)
}

// Source: AWS, CompleteMultipartUpload, x-amz-mp-object-size.
func TestMultipartObjectSize(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	u := b.create("key")
	u.part(1, []byte("12345")).want(http.StatusOK)
	for _, bad := range []string{"4", "x", "-1"} {
		u.tryComplete("x-amz-mp-object-size", bad).wantError(http.StatusBadRequest, "InvalidRequest")
	}
	u.complete("x-amz-mp-object-size", "5")
}

// A bucket with an upload in progress can be deleted or not, but an upload
// never outlives its bucket.
func TestMultipartBucketDeleted(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	u := b.create("key")
	if r := b.do(call{method: http.MethodDelete, path: "/" + b.name}); r.status != http.StatusNoContent {
		r.wantError(http.StatusConflict, "BucketNotEmpty")
		return
	}
	u.part(1, []byte("x")).wantError(http.StatusNotFound, "NoSuchBucket", "NoSuchUpload")
}

// parts lists the parts of an upload, which must succeed.
func (u *upload) parts(pairs ...string) *partListing {
	u.t.Helper()
	l := new(partListing)
	u.do(call{method: http.MethodGet, path: u.path(u.key), query: query(append([]string{"uploadId", u.id}, pairs...)...)}).
		wantXML("ListPartsResult", l)
	return l
}

func TestListParts(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	u := b.create("dir/key", "x-amz-storage-class", "STANDARD")
	l := u.parts()
	if l.Bucket != b.name || l.Key != u.key || l.UploadID != u.id || len(l.Part) != 0 || *l.IsTruncated || *l.MaxParts != 1000 || l.StorageClass != "STANDARD" {
		t.Errorf("no parts: %+v", l)
	}
	if l.Owner == nil || l.Owner.ID == "" || l.Initiator == nil || l.Initiator.ID == "" {
		t.Errorf("Owner %+v, Initiator %+v", l.Owner, l.Initiator)
	}
	for _, n := range []int{1, 3, 5, 10000} {
		u.part(n, bytes.Repeat([]byte("x"), n)).want(http.StatusOK)
	}
	var got []int
	for _, p := range u.parts().Part {
		got = append(got, p.PartNumber)
		if p.ETag != u.tags[p.PartNumber] || p.Size != int64(p.PartNumber) || p.LastModified == "" {
			t.Errorf("%+v", p)
		}
	}
	if diff := cmp.Diff([]int{1, 3, 5, 10000}, got); diff != "" {
		t.Errorf("parts (-want +got)\n%s", diff)
	}
	l = u.parts("max-parts", "2")
	if len(l.Part) != 2 || !*l.IsTruncated || *l.NextPartNumberMarker != 3 || *l.MaxParts != 2 {
		t.Errorf("first page: %+v", l)
	}
	l = u.parts("max-parts", "2", "part-number-marker", "3")
	if len(l.Part) != 2 || l.Part[0].PartNumber != 5 || *l.IsTruncated || *l.PartNumberMarker != 3 {
		t.Errorf("second page: %+v", l)
	}
	if l := u.parts("max-parts", "5000"); *l.MaxParts != 1000 {
		t.Errorf("MaxParts %d, want the cap of 1000", *l.MaxParts)
	}
	if l := u.parts("part-number-marker", "10000"); len(l.Part) != 0 || *l.IsTruncated {
		t.Errorf("past the end: %+v", l)
	}
	for _, bad := range [][]string{{"max-parts", "-1"}, {"max-parts", "x"}, {"part-number-marker", "-1"}, {"part-number-marker", "x"}} {
		u.do(call{method: http.MethodGet, path: u.path(u.key), query: query(append(bad, "uploadId", u.id)...)}).
			wantError(http.StatusBadRequest, "InvalidArgument")
	}
	u.abort().want(http.StatusNoContent)
}

// uploads lists the multipart uploads, which must succeed.
func (b *bucket) uploads(pairs ...string) *uploadListing {
	b.t.Helper()
	l := new(uploadListing)
	b.bucketGet(append([]string{"uploads?"}, pairs...)...).wantXML("ListMultipartUploadsResult", l)
	return l
}

func (l *uploadListing) keys() []string {
	keys := []string{}
	for _, u := range l.Upload {
		keys = append(keys, u.Key)
	}
	return keys
}

func TestListMultipartUploads(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	l := b.uploads()
	if l.Bucket != b.name || len(l.Upload) != 0 || *l.IsTruncated || *l.MaxUploads != 1000 {
		t.Errorf("none: %+v", l)
	}
	for _, key := range []string{"a", "a", "b/1", "b/2", "c d+é"} {
		b.create(key)
	}
	l = b.uploads()
	if diff := cmp.Diff([]string{"a", "a", "b/1", "b/2", "c d+é"}, l.keys()); diff != "" {
		t.Fatalf("keys (-want +got)\n%s", diff)
	}
	for _, u := range l.Upload {
		if u.UploadID == "" || u.Initiated == "" || u.StorageClass != "STANDARD" || u.Owner == nil || u.Initiator == nil {
			t.Errorf("%+v", u)
		}
	}
	all := l.Upload
	l = b.uploads("delimiter", "/")
	if diff := cmp.Diff([]string{"b/"}, l.CommonPrefixes.names()); diff != "" || len(l.Upload) != 3 {
		t.Errorf("delimiter: %v %v", l.keys(), l.CommonPrefixes.names())
	}
	if l := b.uploads("prefix", "b/"); len(l.Upload) != 2 || *l.Prefix != "b/" {
		t.Errorf("prefix: %v", l.keys())
	}
	if l := b.uploads("prefix", "b"); len(l.Upload) != 2 {
		t.Errorf("prefix that is no directory: %v", l.keys())
	}
	if l := b.uploads("encoding-type", "url"); l.Upload[4].Key != "c%20d%2B%C3%A9" {
		t.Errorf("encoding-type: %v", l.keys())
	}
	if l := b.uploads("max-uploads", "5000"); *l.MaxUploads != 1000 {
		t.Errorf("MaxUploads %d, want the cap of 1000", *l.MaxUploads)
	}
	// Paging inside one key goes by both markers, without the second behind
	// the key.
	var ids []string
	key, id := "", ""
	for range 6 {
		args := []string{"max-uploads", "1"}
		if key != "" {
			args = append(args, "key-marker", key, "upload-id-marker", id)
		}
		l := b.uploads(args...)
		if len(l.Upload) != 1 {
			t.Fatalf("a page with %d uploads", len(l.Upload))
		}
		ids = append(ids, l.Upload[0].UploadID)
		if !*l.IsTruncated {
			break
		}
		key, id = *l.NextKeyMarker, *l.NextUploadIDMarker
	}
	var want []string
	for _, u := range all {
		want = append(want, u.UploadID)
	}
	if diff := cmp.Diff(want, ids); diff != "" {
		t.Errorf("pages (-want +got)\n%s", diff)
	}
	if l := b.uploads("key-marker", "a"); len(l.Upload) != 3 {
		t.Errorf("key-marker alone: %v", l.keys())
	}
	for _, bad := range []string{"-1", "x"} {
		b.bucketGet("uploads?", "max-uploads", bad).wantError(http.StatusBadRequest, "InvalidArgument")
	}
	b.bucketGet("uploads?", "encoding-type", "x").wantError(http.StatusBadRequest, "InvalidArgument")
}
