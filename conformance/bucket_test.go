package conformance

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func createBody(location string) []byte {
	return []byte(`<CreateBucketConfiguration xmlns="` + namespace + `"><LocationConstraint>` + location + `</LocationConstraint></CreateBucketConfiguration>`)
}

func TestCreateBucket(t *testing.T) {
	t.Parallel()
	c := connect(t)
	create := func(name string, body []byte) *reply {
		return c.do(call{method: http.MethodPut, path: "/" + name, body: body})
	}
	name := randomName()
	b := &bucket{conn: c, name: name}
	t.Cleanup(b.remove)
	create(name, createBody(c.Region)).want(http.StatusOK).wantHeader("Location", "/"+name)
	if r := create(name, nil); c.Region == "us-east-1" {
		r.want(http.StatusOK)
	} else {
		r.wantError(http.StatusConflict, "BucketAlreadyOwnedByYou")
	}
	// A slash at the end means the same bucket.
	c.do(call{method: http.MethodHead, path: "/" + name + "/"}).want(http.StatusOK)

	other := randomName()
	create(other, createBody("mars-north-1")).wantError(http.StatusBadRequest, "InvalidLocationConstraint")
	create(other, []byte("<CreateBucketConfiguration>")).wantError(http.StatusBadRequest, "MalformedXML")
	create(other, []byte("no XML")).wantError(http.StatusBadRequest, "MalformedXML")
	c.do(call{method: http.MethodHead, path: "/" + other}).want(http.StatusNotFound)

	// Without the namespace, and with nothing inside.
	create(other, []byte("<CreateBucketConfiguration><LocationConstraint>"+c.Region+"</LocationConstraint></CreateBucketConfiguration>")).want(http.StatusOK)
	c.do(call{method: http.MethodDelete, path: "/" + other}).want(http.StatusNoContent)
	create(other, []byte(`<CreateBucketConfiguration xmlns="`+namespace+`"/>`)).want(http.StatusOK)
	c.do(call{method: http.MethodDelete, path: "/" + other}).want(http.StatusNoContent)
}

// Source: AWS, "General purpose bucket naming rules".
func TestBucketNames(t *testing.T) {
	t.Parallel()
	c := connect(t)
	for _, name := range []string{
		"ab", strings.Repeat("a", 64), "Upper-Case", "under_score", "-start", "end-", "192.168.5.4", "a..b", "a-.b", "a.-b", ".start", "end.",
		"sp ace", "é-accent", "xn--start", "sthree-start", "end-s3alias", "end--ol-s3", "a!b", "a*b", "a:b", "a,b",
	} {
		c.do(call{method: http.MethodPut, path: "/" + name}).wantError(http.StatusBadRequest, "InvalidBucketName")
	}
	suffix := randomName()[:20]
	for _, name := range []string{suffix[17:], suffix + strings.Repeat("a", 43), suffix + ".with.dots", "0" + suffix, suffix + "--0"} {
		r := c.do(call{method: http.MethodPut, path: "/" + name})
		if r.status == http.StatusConflict && len(name) == 3 {
			continue // short names may be taken
		}
		r.want(http.StatusOK)
		c.do(call{method: http.MethodDelete, path: "/" + name}).want(http.StatusNoContent)
	}
}

func TestHeadBucket(t *testing.T) {
	t.Parallel()
	c := connect(t)
	b := c.newBucket()
	b.do(call{method: http.MethodHead, path: "/" + b.name}).want(http.StatusOK).wantHeader("X-Amz-Bucket-Region", c.Region).wantBody(nil)
	b.do(call{method: http.MethodHead, path: "/" + randomName()}).want(http.StatusNotFound).wantBody(nil)
	b.do(call{method: http.MethodHead, path: "/" + b.name, secretKey: "wrong"}).want(http.StatusForbidden).wantBody(nil)
	// A refusal tells the region too: SDKs ask for it without credentials.
	// Source: aws-sdk-go-v2, manager.GetBucketRegion.
	b.do(call{method: http.MethodHead, path: "/" + b.name, noSign: true}).want(http.StatusForbidden).wantHeader("X-Amz-Bucket-Region", c.Region)
	// Any region in the scope: clients ask to learn the right one.
	b.do(call{method: http.MethodHead, path: "/" + b.name, region: "us-east-1"}).want(http.StatusOK).wantHeader("X-Amz-Bucket-Region", c.Region)
}

func TestDeleteBucket(t *testing.T) {
	t.Parallel()
	c := connect(t)
	b := c.newBucket()
	b.put("key", nil)
	del := call{method: http.MethodDelete, path: "/" + b.name}
	c.do(del).wantError(http.StatusConflict, "BucketNotEmpty")
	b.get("key").want(http.StatusOK)
	b.request(http.MethodDelete, "key", nil).want(http.StatusNoContent)
	c.do(del).want(http.StatusNoContent)
	c.do(del).wantError(http.StatusNotFound, "NoSuchBucket")
	b.get("key").wantError(http.StatusNotFound, "NoSuchBucket")
	b.request(http.MethodPut, "key", []byte("x")).wantError(http.StatusNotFound, "NoSuchBucket")
	// A new bucket of the name is empty.
	c.do(call{method: http.MethodPut, path: "/" + b.name}).want(http.StatusOK)
	if l := b.list(); len(l.Contents) != 0 {
		t.Errorf("a new bucket holds %v", l.keys())
	}
	b.get("key").wantError(http.StatusNotFound, "NoSuchKey")
}

func TestGetBucketLocation(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	var location struct {
		Value string `xml:",chardata"`
	}
	b.bucketGet("location?").wantXML("LocationConstraint", &location)
	want := b.Region
	if want == "us-east-1" {
		want = ""
	}
	if location.Value != want {
		t.Errorf("location %q, want %q", location.Value, want)
	}
	b.do(call{method: http.MethodGet, path: "/" + randomName(), query: query("location?")}).wantError(http.StatusNotFound, "NoSuchBucket")
}

// buckets lists buckets, which must succeed.
func (c *conn) buckets(pairs ...string) *bucketListing {
	c.t.Helper()
	l := new(bucketListing)
	c.do(call{method: http.MethodGet, path: "/", query: query(pairs...)}).wantXML("ListAllMyBucketsResult", l)
	return l
}

func (l *bucketListing) names() []string {
	names := []string{}
	for _, b := range l.Buckets.Bucket {
		names = append(names, b.Name)
	}
	return names
}

// Source: AWS, ListBuckets: prefix, max-buckets, continuation-token.
func TestListBuckets(t *testing.T) {
	t.Parallel()
	c := connect(t)
	prefix := randomName()[:20]
	var want []string
	for _, suffix := range []string{"a", "b", "c", "d", "e"} {
		b := &bucket{conn: c, name: prefix + suffix}
		c.do(call{method: http.MethodPut, path: "/" + b.name}).want(http.StatusOK)
		t.Cleanup(b.remove)
		want = append(want, b.name)
	}
	all := c.buckets()
	for _, name := range want {
		if !slices.Contains(all.names(), name) {
			t.Errorf("%s is not in the list", name)
		}
	}
	if all.Owner == nil || all.Owner.ID == "" {
		t.Errorf("Owner %+v", all.Owner)
	}
	if !slices.IsSorted(all.names()) {
		t.Errorf("not in order: %v", all.names())
	}
	mine := c.buckets("prefix", prefix)
	if !slices.Equal(mine.names(), want) {
		t.Errorf("with prefix: %v, want %v", mine.names(), want)
	}
	for _, b := range mine.Buckets.Bucket {
		if _, err := time.Parse("2006-01-02T15:04:05.000Z", b.CreationDate); err != nil {
			t.Errorf("%s: CreationDate %q", b.Name, b.CreationDate)
		}
	}
	var paged []string
	token := ""
	for range 5 {
		args := []string{"prefix", prefix, "max-buckets", "2"}
		if token != "" {
			args = append(args, "continuation-token", token)
		}
		page := c.buckets(args...)
		paged = append(paged, page.names()...)
		if len(page.names()) > 2 {
			t.Errorf("a page of %d buckets, want at most 2", len(page.names()))
		}
		if token = page.ContinuationToken; token == "" {
			break
		}
	}
	if !slices.Equal(paged, want) {
		t.Errorf("pages: %v, want %v", paged, want)
	}
	for _, bad := range []string{"0", "-1", "10001", "x"} {
		c.do(call{method: http.MethodGet, path: "/", query: query("max-buckets", bad)}).wantError(http.StatusBadRequest, "InvalidArgument")
	}
	for _, b := range c.buckets("prefix", prefix, "max-buckets", "10000").Buckets.Bucket {
		if b.BucketRegion != "" && b.BucketRegion != c.Region {
			t.Errorf("%s: BucketRegion %q", b.Name, b.BucketRegion)
		}
	}
	if l := c.buckets("prefix", "no-bucket-has-this"); len(l.names()) != 0 {
		t.Errorf("foreign prefix: %v", l.names())
	}
}

// x-amz-expected-bucket-owner guards against a bucket of somebody else.
// Source: AWS, "Verifying bucket ownership with bucket owner condition".
func TestExpectedBucketOwner(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.put("key", []byte("x"))
	stranger := []string{"x-amz-expected-bucket-owner", "999999999999"}
	b.get("key", stranger...).wantError(http.StatusForbidden, "AccessDenied")
	b.head("key", stranger...).want(http.StatusForbidden)
	b.request(http.MethodPut, "new", []byte("x"), stranger...).wantError(http.StatusForbidden, "AccessDenied")
	b.request(http.MethodDelete, "key", nil, stranger...).wantError(http.StatusForbidden, "AccessDenied")
	b.do(call{method: http.MethodGet, path: "/" + b.name, header: headers(stranger...)}).wantError(http.StatusForbidden, "AccessDenied")
	b.copy("/"+b.name+"/key", "copy", "x-amz-source-expected-bucket-owner", "999999999999").wantError(http.StatusForbidden, "AccessDenied")
	b.wantAbsent("copy")
	b.wantAbsent("new")
	b.get("key").want(http.StatusOK)
}
