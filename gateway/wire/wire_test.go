package wire_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/google/go-cmp/cmp"

	"github.com/ruche-storage/ruche/gateway/wire"
)

var day = time.Date(2026, 2, 3, 4, 5, 6, 7_890_000, time.UTC)

// TestReplies compares whole replies with testdata/replies; -rewrite makes
// them anew. Elements are put on lines of their own for the reader.
func TestReplies(t *testing.T) {
	t.Parallel()
	owner := wire.Owner{ID: "0123abcd", DisplayName: "root"}
	sum := wire.Checksum{Algorithm: "CRC32", Type: "COMPOSITE", Value: "AAAAAA==-2"}
	obj := wire.Object{
		Key: "a <b>&\"'\r\n\x01é", VersionID: "null", Latest: true, LastModified: day, ETag: "d41d8",
		Size: 12, StorageClass: "STANDARD", Checksum: sum, Owner: &owner,
	}
	bare := wire.Object{Key: "dir/", LastModified: day, ETag: "e-2", StorageClass: "STANDARD"}
	upload := wire.Upload{Key: "k y", UploadID: "u1", Initiated: day, StorageClass: "STANDARD", Owner: owner, Checksum: sum}
	part := wire.Part{Number: 3, LastModified: day, ETag: "ff", Size: 9, Checksum: sum}
	replies := map[string]func(w io.Writer) *wire.Encoder{
		"list-v1": func(w io.Writer) *wire.Encoder {
			e := wire.NewListObjects(w, &wire.ListHead{Bucket: "b", Prefix: "p", Delimiter: "/", MaxKeys: 2, Truncated: true, Marker: "m", NextMarker: "n"})
			e.Object(&obj)
			e.CommonPrefix("p/q/")
			return e
		},
		"list-v2": func(w io.Writer) *wire.Encoder {
			e := wire.NewListObjectsV2(w, &wire.ListHead{Bucket: "b", MaxKeys: 1000, KeyCount: 1, HasToken: true, StartAfter: "s"})
			e.Object(&bare)
			return e
		},
		"list-v2-url": func(w io.Writer) *wire.Encoder {
			e := wire.NewListObjectsV2(w, &wire.ListHead{Bucket: "b", Prefix: "a+ %/", Delimiter: "é", MaxKeys: 1, KeyCount: 2, EncodingType: "url", Truncated: true, NextToken: "tok"})
			e.Object(&obj)
			e.CommonPrefix("a b/")
			return e
		},
		"versions": func(w io.Writer) *wire.Encoder {
			e := wire.NewListVersions(w, &wire.VersionsHead{Bucket: "b", Delimiter: "/", MaxKeys: 3, Truncated: true, NextKeyMarker: "k", NextVersionMark: "v", EncodingType: "url"})
			e.Version(&obj)
			e.DeleteMarker(&obj)
			e.CommonPrefix("x")
			return e
		},
		"uploads": func(w io.Writer) *wire.Encoder {
			e := wire.NewListUploads(w, &wire.UploadsHead{Bucket: "b", KeyMarker: "km", UploadIDMarker: "um", NextKeyMarker: "nk", NextUploadIDMark: "nu", Delimiter: "/", MaxUploads: 5, Truncated: true, EncodingType: "url"})
			e.Upload(&upload)
			return e
		},
		"parts": func(w io.Writer) *wire.Encoder {
			e := wire.NewListParts(w, &wire.PartsHead{Bucket: "b", Upload: upload, Marker: 2, Next: 3, MaxParts: 1, Truncated: true})
			e.Part(&part)
			return e
		},
		"buckets": func(w io.Writer) *wire.Encoder {
			e := wire.NewListBuckets(w, owner)
			e.Bucket(&wire.Bucket{Name: "b1", Created: day, Region: "fr-metro"})
			e.EndBuckets("b", "next")
			return e
		},
		"deleted": func(w io.Writer) *wire.Encoder {
			e := wire.NewEncoder(w, "DeleteResult", false)
			e.Deleted("k1", "v1", true, "m1")
			e.Deleted("k2", "", false, "")
			e.DeleteError("k3", "v3", wire.AccessDenied)
			return e
		},
		"copy":      func(w io.Writer) *wire.Encoder { return wire.NewCopyResult(w, "CopyObjectResult", "ee", day, sum) },
		"copy-part": func(w io.Writer) *wire.Encoder { return wire.NewCopyResult(w, "CopyPartResult", "ee", day, sum) },
		"initiated": func(w io.Writer) *wire.Encoder { return wire.NewInitiated(w, "b", "k", "u") },
		"completed": func(w io.Writer) *wire.Encoder {
			return wire.NewCompleted(w, "http://h/b/k", "b", "k", "ee-2", sum)
		},
		"location":      func(w io.Writer) *wire.Encoder { return wire.NewLocation(w, "fr-metro") },
		"location-none": func(w io.Writer) *wire.Encoder { return wire.NewLocation(w, "us-east-1") },
		"acl":           func(w io.Writer) *wire.Encoder { return wire.NewACL(w, owner) },
		"attributes": func(w io.Writer) *wire.Encoder {
			return wire.NewAttributes(w, &wire.Attributes{ETag: "ee-1", Checksum: sum, StorageClass: "STANDARD", Size: 0,
				Parts: &wire.AttributesParts{Total: 2, Max: 1, Next: 1, Truncated: true, Parts: []wire.Part{{Number: 1, Size: 5, Checksum: sum}}}})
		},
	}
	datadriven.RunTest(t, "testdata/replies", func(t *testing.T, d *datadriven.TestData) string {
		var b bytes.Buffer
		if d.Cmd == "error" {
			b.Write(wire.NoSuchKey.With("Key", "a&b\x02").AppendXML(nil, "/b/k", "R1", "H1"))
		} else {
			make, ok := replies[d.Cmd]
			if !ok {
				d.Fatalf(t, "unknown reply %s", d.Cmd)
			}
			length := 0
			if err := make(&b).Close(func(n int) { length = n }); err != nil {
				d.Fatalf(t, "%v", err)
			}
			if length != b.Len() {
				t.Errorf("%s: length %d told, %d written", d.Cmd, length, b.Len())
			}
		}
		return strings.ReplaceAll(b.String(), "><", ">\n<") + "\n"
	})
}

func TestEncoderStreams(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	e := wire.NewListObjectsV2(&b, &wire.ListHead{Bucket: "b", MaxKeys: 1000, KeyCount: 1000})
	long := strings.Repeat("k", 900)
	for i := range 1000 {
		e.Object(&wire.Object{Key: fmt.Sprintf("%s%04d", long, i), LastModified: day, ETag: "d41d8cd98f00b204e9800998ecf8427e", StorageClass: "STANDARD"})
	}
	if err := e.Close(func(int) { t.Error("length told after something was written") }); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Contents []struct{ Key, ETag string }
	}
	if err := xml.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Contents) != 1000 || got.Contents[999].Key != long+"0999" || got.Contents[0].ETag != `"d41d8cd98f00b204e9800998ecf8427e"` {
		t.Errorf("%d entries, last %q", len(got.Contents), got.Contents[len(got.Contents)-1].Key)
	}

	e = wire.NewListBuckets(failing{}, wire.Owner{})
	if err := e.Close(nil); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Close = %v, want the writer's error", err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// FuzzText checks that an XML parser gives back what was written, for every
// text that XML 1.0 can carry.
func FuzzText(f *testing.F) {
	f.Add("a<b>&\"'\t\n\r]]>é\u2028")
	f.Add("\xff\x00\ufffe")
	f.Fuzz(func(t *testing.T, s string) {
		var b bytes.Buffer
		e := wire.NewEncoder(&b, "R", false)
		e.Text("T", s)
		if err := e.Close(nil); err != nil {
			t.Fatal(err)
		}
		if strings.ToValidUTF8(s, "") != s || strings.ContainsFunc(s, func(r rune) bool {
			return r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff
		}) {
			return
		}
		var got struct{ T string }
		if err := xml.Unmarshal(b.Bytes(), &got); err != nil || got.T != s {
			t.Errorf("%q came back as %q, %v", s, got.T, err)
		}
	})
}

func FuzzURLEncode(f *testing.F) {
	f.Add("foo+1/b ar%~*\x01é")
	f.Fuzz(func(t *testing.T, s string) {
		enc := wire.URLEncode(s)
		if got, err := url.QueryUnescape(enc); err != nil || got != s {
			t.Errorf("%q -> %q -> %q, %v", s, enc, got, err)
		}
		if strings.ContainsAny(enc, "<>&\"' +\r\n") {
			t.Errorf("%q -> %q needs escaping in XML", s, enc)
		}
	})
}

func TestURLEncode(t *testing.T) {
	t.Parallel()
	if got, want := wire.URLEncode("quux ab/a+b%é\x01"), "quux%20ab/a%2Bb%25%C3%A9%01"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	e := wire.NoSuchKey.With("Key", "k").Because(cause)
	if !errors.Is(e, wire.NoSuchKey) || !errors.Is(e, cause) || errors.Is(e, wire.NoSuchBucket) {
		t.Errorf("identity of %v is lost", e)
	}
	if len(wire.NoSuchKey.Fields) != 0 {
		t.Error("With changed the table")
	}
	if got := wire.InvalidArgument.Say("other").Error(); got != "s3: InvalidArgument: other" {
		t.Errorf("Error = %q", got)
	}
	w := httptest.NewRecorder()
	if err := e.WriteTo(w, false, "/b/k", "R", "H"); err != nil {
		t.Fatal(err)
	}
	if w.Code != 404 || w.Header().Get("Content-Type") != "application/xml" || !strings.Contains(w.Body.String(), "<Key>k</Key>") || strings.Contains(w.Body.String(), "cause") {
		t.Errorf("reply %d %v %s", w.Code, w.Header(), w.Body)
	}
	w = httptest.NewRecorder()
	if err := e.WriteTo(w, true, "/b/k", "R", "H"); err != nil || w.Code != 404 || w.Body.Len() != 0 {
		t.Errorf("HEAD reply %d %q, %v", w.Code, w.Body, err)
	}
}

func TestReadDelete(t *testing.T) {
	t.Parallel()
	many := func(n int) string {
		return "<Delete>" + strings.Repeat("<Object><Key>k</Key></Object>", n) + "</Delete>"
	}
	tests := []struct {
		name, in string
		want     *wire.Delete
		err      error
	}{
		{name: "plain", in: `<?xml version="1.0"?><Delete><Quiet>true</Quiet><Object><Key> a&amp;b </Key><VersionId>v</VersionId></Object></Delete>`,
			want: &wire.Delete{Quiet: true, Objects: []wire.DeleteObject{{Key: " a&b ", VersionID: "v", Size: -1}}}},
		{name: "name space, comment, unknown elements", in: `<!-- c --><Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"> <New><Deep/></New><Object><Key>k</Key><ETag>"e"</ETag><Size>5</Size><LastModifiedTime>Tue, 03 Feb 2026 04:05:06 GMT</LastModifiedTime></Object> </Delete>`,
			want: &wire.Delete{Objects: []wire.DeleteObject{{Key: "k", ETag: "e", Size: 5, LastModified: day.Truncate(time.Second)}}}},
		{name: "control character", in: "<Delete><Object><Key>a&#13;&#10;b</Key></Object></Delete>",
			want: &wire.Delete{Objects: []wire.DeleteObject{{Key: "a\r\nb", Size: -1}}}},
		{name: "too many", in: many(1001), err: wire.MalformedXML},
		{name: "none", in: "<Delete></Delete>", err: wire.MalformedXML},
		{name: "empty body", in: "", err: wire.MissingRequestBody},
		{name: "declaration only", in: `<?xml version="1.0"?>`, err: wire.MalformedXML},
		{name: "blanks only", in: " ", err: wire.MalformedXML},
		{name: "not closed", in: "<Delete><Object><Key>k</Key>", err: wire.MalformedXML},
		{name: "no key", in: "<Delete><Object></Object></Delete>", err: wire.MalformedXML},
		{name: "bad size", in: "<Delete><Object><Key>k</Key><Size>-1</Size></Object></Delete>", err: wire.MalformedXML},
		{name: "bad time", in: "<Delete><Object><Key>k</Key><LastModifiedTime>now</LastModifiedTime></Object></Delete>", err: wire.MalformedXML},
		{name: "other root", in: "<Remove/>", err: wire.MalformedXML},
		{name: "second root", in: many(1) + "<x/>", err: wire.MalformedXML},
		{name: "text behind", in: many(1) + "x", err: wire.MalformedXML},
		{name: "document type", in: `<!DOCTYPE d [<!ENTITY a "aaaa">]><Delete><Object><Key>&a;</Key></Object></Delete>`, err: wire.MalformedXML},
		{name: "entity", in: `<Delete><Object><Key>&a;</Key></Object></Delete>`, err: wire.MalformedXML},
		{name: "deep", in: "<Delete>" + strings.Repeat("<a>", 1000), err: wire.MalformedXML},
		{name: "element in key", in: "<Delete><Object><Key><b/></Key></Object></Delete>", err: wire.MalformedXML},
		{name: "other charset", in: `<?xml version="1.0" encoding="latin-1"?>` + many(1), err: wire.MalformedXML},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := wire.ReadDelete(strings.NewReader(tt.in))
			if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Fatalf("err = %v, want %v", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	if d, err := wire.ReadDelete(strings.NewReader(many(1000))); err != nil || len(d.Objects) != 1000 {
		t.Errorf("1,000 keys: %v", err)
	}
	broken := errors.New("broken")
	for _, in := range []string{many(1), "<Delete><Obj", ""} {
		if _, err := wire.ReadDelete(io.MultiReader(strings.NewReader(in), iotest.ErrReader(broken))); !errors.Is(err, broken) {
			t.Errorf("%q: the body's own error is lost: %v", in, err)
		}
	}
	endless := io.MultiReader(strings.NewReader("<Delete>"), repeat(" "))
	if _, err := wire.ReadDelete(endless); !errors.Is(err, wire.MaxMessageLengthExceeded) {
		t.Errorf("endless body: %v", err)
	}
}

// repeat is a reader without end.
type repeat string

func (r repeat) Read(p []byte) (int, error) {
	return copy(p, strings.Repeat(string(r), max(1, len(p)/len(r)))), nil
}

func TestReadComplete(t *testing.T) {
	t.Parallel()
	part := func(n, etag string) string {
		return "<Part><PartNumber>" + n + "</PartNumber><ETag>" + etag + "</ETag></Part>"
	}
	tests := []struct {
		name, in string
		want     []wire.CompletedPart
		err      error
	}{
		{name: "quotes and checksums", in: part("1", "&quot;a&quot;") + "<Part><ETag>b</ETag><ChecksumCRC32>AA==</ChecksumCRC32><ChecksumSHA1></ChecksumSHA1><PartNumber>3</PartNumber></Part>",
			want: []wire.CompletedPart{{Number: 1, ETag: "a"}, {Number: 3, ETag: "b", Checksums: []wire.Field{{Name: "CRC32", Value: "AA=="}}}}},
		{name: "none", in: "", err: wire.MalformedXML},
		{name: "order", in: part("2", "a") + part("1", "b"), err: wire.InvalidPartOrder},
		{name: "twice", in: part("2", "a") + part("2", "b"), err: wire.InvalidPartOrder},
		{name: "zero", in: part("0", "a"), err: wire.InvalidArgument},
		{name: "beyond", in: part("10001", "a"), err: wire.InvalidArgument},
		{name: "no number", in: "<Part><ETag>a</ETag></Part>", err: wire.MalformedXML},
		{name: "no etag", in: "<Part><PartNumber>1</PartNumber></Part>", err: wire.MalformedXML},
		{name: "junk", in: part("one", "a"), err: wire.MalformedXML},
		{name: "fault in the list and in the XML", in: part("0", "a") + "<", err: wire.MalformedXML},
		{name: "too many", in: strings.Repeat(part("1", "a"), 10_001), err: wire.MalformedXML},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := wire.ReadComplete(strings.NewReader("<CompleteMultipartUpload>" + tt.in + "</CompleteMultipartUpload>"))
			if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Fatalf("err = %v, want %v", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, err := wire.ReadComplete(strings.NewReader("")); !errors.Is(err, wire.MalformedXML) {
		t.Errorf("empty body: %v", err)
	}
}

func TestReadSmallBodies(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                             "",
		"<CreateBucketConfiguration/>": "",
		"<CreateBucketConfiguration><LocationConstraint> fr-metro </LocationConstraint></CreateBucketConfiguration>": "fr-metro",
	} {
		if got, dir, tags, err := wire.ReadCreateBucket(strings.NewReader(in)); got != want || dir || tags || err != nil {
			t.Errorf("%q: %q %v %v %v", in, got, dir, tags, err)
		}
	}
	_, dir, tags, err := wire.ReadCreateBucket(strings.NewReader("<CreateBucketConfiguration><Bucket><Type>Directory</Type></Bucket><Tags><Tag><Key>k</Key></Tag></Tags></CreateBucketConfiguration>"))
	if !dir || !tags || err != nil {
		t.Errorf("directory %v tags %v %v", dir, tags, err)
	}
	if _, _, _, err := wire.ReadCreateBucket(strings.NewReader("<Create")); !errors.Is(err, wire.MalformedXML) {
		t.Errorf("malformed: %v", err)
	}

	owner, grants, ok, err := wire.ReadACL(strings.NewReader(`<AccessControlPolicy><Owner><ID>me</ID><DisplayName/></Owner><AccessControlList><Grant><Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser"><ID>me</ID></Grantee><Permission>FULL_CONTROL</Permission></Grant></AccessControlList></AccessControlPolicy>`))
	if want := []wire.Grant{{"me", "FULL_CONTROL"}}; owner != "me" || !ok || err != nil || !cmp.Equal(grants, want) {
		t.Errorf("ACL: %q %v %v %v", owner, grants, ok, err)
	}
	if _, _, ok, err := wire.ReadACL(strings.NewReader("")); ok || err != nil {
		t.Errorf("no ACL: %v %v", ok, err)
	}
	if _, _, _, err := wire.ReadACL(strings.NewReader("<x/>")); !errors.Is(err, wire.MalformedACL) {
		t.Errorf("bad ACL: %v", err)
	}
}

func FuzzReadBodies(f *testing.F) {
	f.Add([]byte("<Delete><Quiet>1</Quiet><Object><Key>k</Key><Size>1</Size></Object></Delete>"))
	f.Add([]byte("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>e</ETag></Part></CompleteMultipartUpload>"))
	f.Add([]byte("<CreateBucketConfiguration><LocationConstraint>x</LocationConstraint></CreateBucketConfiguration>"))
	f.Add([]byte("<AccessControlPolicy><Owner><ID>i</ID></Owner></AccessControlPolicy>"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if d, err := wire.ReadDelete(bytes.NewReader(in)); err == nil && (len(d.Objects) == 0 || len(d.Objects) > wire.MaxDeleteKeys) {
			t.Errorf("%d objects", len(d.Objects))
		} else if err != nil && !answerable(err) {
			t.Errorf("no answer for %v", err)
		}
		parts, err := wire.ReadComplete(bytes.NewReader(in))
		if err != nil && !answerable(err) {
			t.Errorf("no answer for %v", err)
		}
		for i := 1; i < len(parts); i++ {
			if parts[i-1].Number >= parts[i].Number {
				t.Error("not in order")
			}
		}
		if _, _, _, err := wire.ReadCreateBucket(bytes.NewReader(in)); err != nil && !answerable(err) {
			t.Errorf("no answer for %v", err)
		}
		if _, _, _, err := wire.ReadACL(bytes.NewReader(in)); err != nil && !answerable(err) {
			t.Errorf("no answer for %v", err)
		}
	})
}

func answerable(err error) bool {
	_, ok := errors.AsType[*wire.Error](err)
	return ok
}

func TestParseRange(t *testing.T) {
	t.Parallel()
	tests := []struct {
		in   string
		want wire.Range
		ok   bool
	}{
		{"bytes=0-9", wire.Range{First: 0, Last: 9}, true},
		{"bytes=5-", wire.Range{First: 5, Last: -1}, true},
		{"bytes=-7", wire.Range{Suffix: true, Last: 7}, true},
		{"bytes=-0", wire.Range{Suffix: true, Last: 0}, true},
		{"bytes=3-99999999999999999999", wire.Range{First: 3, Last: 1<<63 - 1}, true},
		{"bytes=10-5", wire.Range{}, false},
		{"bytes=abc", wire.Range{}, false},
		{"bytes=-", wire.Range{}, false},
		{"bytes=--1", wire.Range{}, false},
		{"bytes=+1-2", wire.Range{}, false},
		{"bytes= 1-2", wire.Range{}, false},
		{"bytes=1 -2", wire.Range{}, false},
		{"bytes=0-1,3-4", wire.Range{}, false},
		{"foo=0-1", wire.Range{}, false},
		{"bytes", wire.Range{}, false},
		{"", wire.Range{}, false},
	}
	for _, tt := range tests {
		got, ok := wire.ParseRange(tt.in)
		if ok != tt.ok || ok && got != tt.want {
			t.Errorf("ParseRange(%q) = %+v, %v", tt.in, got, ok)
		}
	}
	for in, want := range map[string]bool{"bytes=0-0": true, "bytes=0-": false, "bytes=-1": false, "0-1": false, "bytes=2-1": false} {
		if _, _, ok := wire.ParseCopyRange(in); ok != want {
			t.Errorf("ParseCopyRange(%q) = %v", in, ok)
		}
	}
}

func FuzzValues(f *testing.F) {
	f.Add("bytes=0-1")
	f.Add(`"a,b", W/"c", d`)
	f.Add("/b/k%20+?versionId=x")
	f.Add("a=b&c=d%20")
	f.Add("2026-02-03T04:05:06Z")
	f.Fuzz(func(t *testing.T, s string) {
		if r, ok := wire.ParseRange(s); ok && (r.First < 0 || r.Last < -1 || !r.Suffix && r.Last >= 0 && r.Last < r.First) {
			t.Errorf("ParseRange(%q) = %+v", s, r)
		}
		for _, tag := range wire.ParseETags(s) {
			if tag == "" {
				t.Errorf("ParseETags(%q) has an empty tag", s)
			}
		}
		if bucket, key, _, err := wire.ParseCopySource(s); err == nil && (!wire.ValidBucketName(bucket) || key == "" || len(key) > wire.MaxKeyBytes) {
			t.Errorf("ParseCopySource(%q) = %q, %q", s, bucket, key)
		}
		if tags, err := wire.ParseTagging(s); err == nil && len(tags) > 10 {
			t.Errorf("ParseTagging(%q): %d tags", s, len(tags))
		}
		if n, err := wire.ParseCount("max-keys", s, 0, 1000); err == nil && (n < 0 || n > 1000) {
			t.Errorf("ParseCount(%q) = %d", s, n)
		}
		wire.ParseTime(s)
	})
}

func TestParseETags(t *testing.T) {
	t.Parallel()
	tests := map[string][]string{
		"":                          nil,
		"*":                         {"*"},
		"abc":                       {"abc"},
		`"abc"`:                     {"abc"},
		`W/"abc" , "d,e",f,, "g"`:   {"abc", "d,e", "f", "g"},
		`"open`:                     {`"open`},
		strings.Repeat("a,", 1_000): strings.Split(strings.Repeat("a,", 63)+"a", ","),
	}
	for in, want := range tests {
		if diff := cmp.Diff(want, wire.ParseETags(in)); diff != "" {
			t.Errorf("ParseETags(%.40q): %s", in, diff)
		}
	}
}

func TestParseCopySource(t *testing.T) {
	t.Parallel()
	tests := []struct {
		in, bucket, key, version string
		err                      error
	}{
		{"bkt/key", "bkt", "key", "", nil},
		{"/bkt/a/b//c", "bkt", "a/b//c", "", nil},
		{"bkt%2Fkey%2Bplus", "bkt", "key+plus", "", nil},
		{"bkt/a+b%20c%2520", "bkt", "a+b c%20", "", nil},
		{"bkt/..%2f..%2fx", "bkt", "../../x", "", nil},
		{"bkt/key?versionId=v%2F1", "bkt", "key", "v/1", nil},
		{"bkt/what?now?versionId=v", "bkt", "what?now", "v", nil},
		{"bkt/key?versionId=", "", "", "", wire.InvalidArgument},
		{"bkt/%zz", "", "", "", wire.InvalidArgument},
		{"bkt/%ff", "", "", "", wire.InvalidArgument},
		{"bkt", "", "", "", wire.InvalidArgument},
		{"bkt/", "", "", "", wire.InvalidArgument},
		{"//key", "", "", "", wire.InvalidArgument},
		{"", "", "", "", wire.InvalidArgument},
		{"B/key", "", "", "", wire.InvalidBucketName},
		{"arn:aws:s3:fr:1:accesspoint/x/object/k", "", "", "", wire.InvalidArgument},
		{"bkt/" + strings.Repeat("k", 1025), "", "", "", wire.KeyTooLong},
	}
	for _, tt := range tests {
		bucket, key, version, err := wire.ParseCopySource(tt.in)
		if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
			t.Errorf("ParseCopySource(%q): %v, want %v", tt.in, err, tt.err)
		} else if err == nil && (bucket != tt.bucket || key != tt.key || version != tt.version) {
			t.Errorf("ParseCopySource(%q) = %q %q %q", tt.in, bucket, key, version)
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"abc": true, "a.b-c.d1": true, "1.2.3": true, strings.Repeat("a", 63): true, "1.2.3.4a": true,
		"ab": false, strings.Repeat("a", 64): false, "Abc": false, "a_b": false, "a..b": false, "a.-b": false, "a-.b": false,
		"-abc": false, "abc-": false, ".abc": false, "abc.": false, "192.168.5.4": false, "xn--abc": false, "abc-s3alias": false,
		"sthree-x": false, "abc--ol-s3": false, "abc.mrap": false, "abc--x-s3": false, "a b": false, "é12": false, "": false,
	} {
		if wire.ValidBucketName(name) != want {
			t.Errorf("ValidBucketName(%q) = %v", name, !want)
		}
	}
	for key, want := range map[string]error{
		"a//b": nil, "../x": nil, strings.Repeat("k", 1024): nil, "\x01": nil,
		strings.Repeat("k", 1025): wire.KeyTooLong, "\xff": wire.InvalidURI,
	} {
		if err := wire.CheckKey(key); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("CheckKey(%.20q) = %v", key, err)
		}
	}
}

func TestUserMetadata(t *testing.T) {
	t.Parallel()
	h := http.Header{}
	h.Set("x-amz-meta-Zeta", "=?UTF-8?Q?caf=C3=A9?=")
	h.Add("x-amz-meta-a", "é")
	h.Add("x-amz-meta-a", "2")
	h.Set("x-amz-meta-", "ignored")
	h.Set("x-amz-metadata-directive", "COPY")
	got, err := wire.UserMetadata(h)
	if diff := cmp.Diff([]wire.Pair{{"a", "é,2"}, {"zeta", "=?UTF-8?Q?caf=C3=A9?="}}, got); diff != "" || err != nil {
		t.Errorf("%s %v", diff, err)
	}
	h.Set("x-amz-meta-big", strings.Repeat("x", 2048))
	if _, err := wire.UserMetadata(h); !errors.Is(err, wire.MetadataTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

func TestParseTagging(t *testing.T) {
	t.Parallel()
	got, err := wire.ParseTagging("a=b%20c&d+e=&f")
	if diff := cmp.Diff([]wire.Tag{{"a", "b c"}, {"d e", ""}, {"f", ""}}, got); diff != "" || err != nil {
		t.Errorf("%s %v", diff, err)
	}
	for _, bad := range []string{"a=1&a=2", "=x", "%zz=1", "a=" + strings.Repeat("x", 257), strings.Repeat("k", 129) + "=", "a=1&b=&c=&d=&e=&f=&g=&h=&i=&j=&k="} {
		if _, err := wire.ParseTagging(bad); !errors.Is(err, wire.InvalidArgument) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestParseCount(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int{"": 1000, "0": 0, "7": 7, "1000": 1000, "2147483647": 1000} {
		if got, err := wire.ParseCount("max-keys", in, 0, 1000); got != want || err != nil {
			t.Errorf("ParseCount(%q) = %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"-1", "x", "1.5", "2147483648", " 1"} {
		if _, err := wire.ParseCount("max-keys", in, 0, 1000); !errors.Is(err, wire.InvalidArgument) {
			t.Errorf("ParseCount(%q): %v", in, err)
		}
	}
	if _, err := wire.ParseCount("max-buckets", "0", 1, 10_000); !errors.Is(err, wire.InvalidArgument) {
		t.Errorf("max-buckets=0: %v", err)
	}
}

func TestTimes(t *testing.T) {
	t.Parallel()
	want := day.Truncate(time.Second)
	for _, in := range []string{"Tue, 03 Feb 2026 04:05:06 GMT", "2026-02-03T04:05:06Z", "2026-02-03T04:05:06.000Z", "2026-02-03T05:05:06+01:00", " 20260203T040506Z ", "Tuesday, 03-Feb-26 04:05:06 GMT"} {
		if got, ok := wire.ParseTime(in); !ok || !got.Equal(want) {
			t.Errorf("ParseTime(%q) = %v, %v", in, got, ok)
		}
	}
	if _, ok := wire.ParseTime("yesterday"); ok || !wire.ParseConditionTime("yesterday").IsZero() {
		t.Error("yesterday is a time")
	}
	if got := string(wire.AppendTime(nil, day)); got != "2026-02-03T04:05:06.007Z" {
		t.Error(got)
	}
	if got := wire.HTTPTime(day); got != "Tue, 03 Feb 2026 04:05:06 GMT" {
		t.Error(got)
	}
}

func FuzzAppendTime(f *testing.F) {
	f.Add(int64(0), int64(0))
	f.Add(int64(1770091506), int64(999_999_999))
	f.Add(int64(253402300800), int64(5))
	f.Fuzz(func(t *testing.T, seconds, nanos int64) {
		at := time.Unix(seconds%1e12, nanos%1e9)
		if got, want := string(wire.AppendTime(nil, at)), at.UTC().Format("2006-01-02T15:04:05.000Z"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func BenchmarkListObjects(b *testing.B) {
	e := &wire.Object{Key: "some/prefix/that/is/usual/object-000001.dat", LastModified: day, ETag: "d41d8cd98f00b204e9800998ecf8427e", Size: 123456, StorageClass: "STANDARD"}
	for b.Loop() {
		l := wire.NewListObjectsV2(io.Discard, &wire.ListHead{Bucket: "b", MaxKeys: 1000})
		for range 1000 {
			l.Object(e)
		}
		if err := l.Close(nil); err != nil {
			b.Fatal(err)
		}
	}
}
