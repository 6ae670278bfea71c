package conformance

import (
	"fmt"
	"net/http"
	"testing"
)

// wholeRanges are Range headers that are ignored.
func wholeRanges() []string {
	return []string{"bytes=10-5", "bytes=abc", "foo=0-1", "bytes=0-1,3-4", "bytes=0 - 1", "bytes=--1", "bytes", "bytes=", "bytes=-", "0-1", "bytes=1-x", "bytes=-x", "bytes=0x1-2"}
}

// Source: AWS, GetObject, Range; RFC 9110, section 14. What is malformed is
// ignored, several ranges are answered by the whole.
func TestRanges(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	const size = 300 * kib
	data := noise(size, 50)
	for _, key := range []string{"key", "directory/"} {
		b.put(key, data)
	}
	// A quarter MiB is a stripe with the usual scheme: borders around cells of
	// 64 KiB and around stripes are worth a look.
	for _, tt := range []struct {
		header     string
		start, end int // end is exclusive; start < 0: the whole
	}{
		{"bytes=0-0", 0, 1},
		{"bytes=0-9", 0, 10},
		{"bytes=5-", 5, size},
		{"bytes=-1", size - 1, size},
		{"bytes=-307200", 0, size},
		{"bytes=-400000", 0, size},
		{"bytes=0-", 0, size},
		{"bytes=307199-", size - 1, size},
		{"bytes=307199-99999999", size - 1, size},
		{"bytes=65535-65536", 65535, 65537},
		{"bytes=65536-131071", 65536, 131072},
		{"bytes=262143-262144", 262143, 262145},
		{"bytes=100-290000", 100, 290001},
		{"bytes=0-99999999999999999999", 0, size},
	} {
		for _, key := range []string{"key", "directory/"} {
			r := b.get(key, "Range", tt.header).want(http.StatusPartialContent).wantBody(data[tt.start:tt.end])
			want := []string{"Content-Range", fmt.Sprintf("bytes %d-%d/%d", tt.start, tt.end-1, size), "Content-Length", itoa(tt.end - tt.start), "Accept-Ranges", "bytes"}
			r.wantHeader(want...)
			b.head(key, "Range", tt.header).want(http.StatusPartialContent).wantHeader(want...)
		}
	}
	for _, header := range wholeRanges() {
		b.get("key", "Range", header).want(http.StatusOK).wantBody(data).wantHeader("Content-Range", "", "Accept-Ranges", "bytes")
		b.head("key", "Range", header).want(http.StatusOK).wantHeader("Content-Range", "", "Content-Length", itoa(size))
	}
	for _, header := range []string{"bytes=307200-", "bytes=307200-307300", "bytes=-0", "bytes=9999999-"} {
		r := b.get("key", "Range", header)
		r.wantError(http.StatusRequestedRangeNotSatisfiable, "InvalidRange")
		r.wantHeader("Content-Range", "bytes */307200")
		b.head("key", "Range", header).want(http.StatusRequestedRangeNotSatisfiable).anError()
	}
}

func TestRangesOfEmptyObject(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	b.put("empty", nil)
	b.get("empty").want(http.StatusOK).wantBody(nil).wantHeader("Content-Length", "0", "ETag", `"d41d8cd98f00b204e9800998ecf8427e"`)
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		b.request(method, "empty", nil, "Range", "bytes=-5").want(http.StatusOK).wantHeader("Content-Range", "", "Content-Length", "0")
		for _, header := range []string{"bytes=0-", "bytes=0-0", "bytes=5-9"} {
			r := b.request(method, "empty", nil, "Range", header)
			if r.status != http.StatusRequestedRangeNotSatisfiable {
				t.Errorf("%s %s: status %d, want 416", method, header, r.status)
			}
			r.anError()
		}
	}
}

// A condition and a range together.
func TestRangeWithConditions(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := noise(kib, 51)
	tag := b.put("key", data).etag()
	b.get("key", "Range", "bytes=0-3", "If-Match", tag).want(http.StatusPartialContent).wantBody(data[:4])
	b.get("key", "Range", "bytes=0-3", "If-None-Match", tag).want(http.StatusNotModified)
	b.get("key", "Range", "bytes=0-3", "If-Match", `"x"`).wantError(http.StatusPreconditionFailed, "PreconditionFailed")
}

// Sizes around the borders of inline storage, cells and stripes come back
// whole and by ranges.
func TestSizes(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	for _, size := range []int{1, 15, 16, 17, 4095, 4096, 16383, 16384, 16385, 65535, 65536, 65537, 262143, 262144, 262145, 524288, 1000003, 3*mib + 7} {
		data := noise(size, byte(size))
		b.put("key", data)
		b.get("key").want(http.StatusOK).wantBody(data).wantHeader("Content-Length", itoa(size))
		b.head("key").want(http.StatusOK).wantHeader("Content-Length", itoa(size))
		for _, at := range []int{0, size / 3, size - 1} {
			b.get("key", "Range", fmt.Sprintf("bytes=%d-", at)).want(http.StatusPartialContent).wantBody(data[at:])
		}
	}
}
