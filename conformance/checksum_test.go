package conformance

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"net/http"
	"strings"
	"testing"

	"crypto/md5"
)

// A checksum is one of the algorithms of x-amz-checksum-algorithm.
type checksum struct {
	name   string // as in x-amz-checksum-algorithm
	header string
	make   func() hash.Hash
}

// checksums lists all algorithms. CRC64NVME is the CRC-64 of the NVM Express
// base specification, polynomial 0xad93d23594c93659, here bit-reversed.
func checksums() []checksum {
	return []checksum{
		{"CRC32", "x-amz-checksum-crc32", func() hash.Hash { return crc32.NewIEEE() }},
		{"CRC32C", "x-amz-checksum-crc32c", func() hash.Hash { return crc32.New(crc32.MakeTable(crc32.Castagnoli)) }},
		{"CRC64NVME", "x-amz-checksum-crc64nvme", func() hash.Hash { return crc64.New(crc64.MakeTable(0x9a6c9329ac4bc9b5)) }},
		{"SHA1", "x-amz-checksum-sha1", sha1.New},
		{"SHA256", "x-amz-checksum-sha256", sha256.New},
	}
}

// checksumNamed returns one of [checksums].
func checksumNamed(name string) checksum {
	for _, c := range checksums() {
		if c.name == name {
			return c
		}
	}
	panic("no checksum " + name)
}

// raw returns the checksum of data.
func (c checksum) raw(data []byte) []byte {
	h := c.make()
	h.Write(data)
	return h.Sum(nil)
}

// sum returns the checksum of data as headers carry it.
func (c checksum) sum(data []byte) string {
	return base64.StdEncoding.EncodeToString(c.raw(data))
}

// The algorithms here agree with the check values of their definitions.
func TestChecksumAlgorithms(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"CRC32": "cbf43926", "CRC32C": "e3069283", "CRC64NVME": "ae8b14860a799888",
		"SHA1": "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
	} {
		if got := hex.EncodeToString(checksumNamed(name).raw([]byte("123456789"))); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestChecksumHeaders(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := noise(100*kib, 1)
	for _, c := range checksums() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := b.with(t)
			key := "ok-" + c.name
			b.put(key, data, c.header, c.sum(data), "x-amz-sdk-checksum-algorithm", c.name).
				wantHeader(c.header, c.sum(data), "X-Amz-Checksum-Type", "FULL_OBJECT")
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				b.request(method, key, nil).want(http.StatusOK).wantHeader(c.header, "", "X-Amz-Checksum-Type", "")
				b.request(method, key, nil, "x-amz-checksum-mode", "ENABLED").want(http.StatusOK).
					wantHeader(c.header, c.sum(data), "X-Amz-Checksum-Type", "FULL_OBJECT")
			}
			if got := b.list("prefix", key).Contents[0]; len(got.ChecksumAlgorithm) != 1 || got.ChecksumAlgorithm[0] != c.name || got.ChecksumType != "FULL_OBJECT" {
				t.Errorf("list: ChecksumAlgorithm %v, ChecksumType %q", got.ChecksumAlgorithm, got.ChecksumType)
			}
			bad := "bad-" + c.name
			b.request(http.MethodPut, bad, data, c.header, c.sum(data[1:])).wantError(http.StatusBadRequest, "BadDigest")
			b.wantAbsent(bad)
			for _, value := range []string{"no base64!", "AAAA", c.sum(data) + "AAAA"} {
				b.request(http.MethodPut, bad, data, c.header, value).wantError(http.StatusBadRequest, "InvalidRequest")
			}
			b.wantAbsent(bad)
			// The name in any letter case.
			b.put("lower-"+c.name, data, c.header, c.sum(data), "x-amz-sdk-checksum-algorithm", strings.ToLower(c.name))
		})
	}
}

// Nothing sent: the server computes CRC64NVME.
// Source: AWS, "Checking object integrity in Amazon S3".
func TestChecksumDefault(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	c := checksumNamed("CRC64NVME")
	for name, data := range map[string][]byte{"some": noise(70*kib, 2), "none": nil} {
		b.put(name, data).wantHeader(c.header, c.sum(data))
		b.head(name, "x-amz-checksum-mode", "ENABLED").want(http.StatusOK).wantHeader(c.header, c.sum(data), "X-Amz-Checksum-Type", "FULL_OBJECT")
	}
}

func TestChecksumRejected(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := []byte("checksummed")
	crc, sha := checksumNamed("CRC32"), checksumNamed("SHA256")
	b.request(http.MethodPut, "two", data, crc.header, crc.sum(data), sha.header, sha.sum(data)).wantError(http.StatusBadRequest, "InvalidRequest")
	b.request(http.MethodPut, "alone", data, "x-amz-sdk-checksum-algorithm", "CRC32").wantError(http.StatusBadRequest, "InvalidRequest")
	b.request(http.MethodPut, "other", data, "x-amz-sdk-checksum-algorithm", "SHA1", crc.header, crc.sum(data)).wantError(http.StatusBadRequest, "InvalidRequest")
	for _, key := range []string{"two", "alone", "other"} {
		b.wantAbsent(key)
	}
}

// What AWS does not know and ignores is not an error.
func TestChecksumUnknownIgnored(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := []byte("data")
	b.put("mode", data, "x-amz-checksum-algorithm", "CRC32")
	b.get("mode", "x-amz-checksum-mode", "DISABLED").want(http.StatusOK).wantBody(data).wantHeader("x-amz-checksum-crc64nvme", "")
}

// A checksum of the whole is not sent along with a part of it.
func TestChecksumWithRange(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := noise(kib, 3)
	c := checksumNamed("SHA256")
	b.put("key", data, c.header, c.sum(data))
	b.get("key", "x-amz-checksum-mode", "ENABLED", "Range", "bytes=0-9").want(http.StatusPartialContent).
		wantBody(data[:10]).wantHeader(c.header, "")
}

func TestContentMD5(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := noise(20*kib, 4)
	sum := md5.Sum(data)
	want := `"` + hex.EncodeToString(sum[:]) + `"`
	r := b.put("good", data, "Content-MD5", contentMD5(data))
	r.wantHeader("ETag", want)
	b.request(http.MethodPut, "bad", data, "Content-MD5", contentMD5(data[1:])).wantError(http.StatusBadRequest, "BadDigest")
	for _, value := range []string{"no base64!", "AAAA", "", hex.EncodeToString(sum[:])} {
		b.request(http.MethodPut, "bad", data, "Content-MD5", value).wantError(http.StatusBadRequest, "InvalidDigest")
	}
	b.wantAbsent("bad")
	// MD5 and a checksum may come together.
	c := checksumNamed("CRC32C")
	b.put("both", data, "Content-MD5", contentMD5(data), c.header, c.sum(data)).wantHeader("ETag", want, c.header, c.sum(data))
}

// multipartSum is the checksum of a multipart object: of the whole, or of the
// parts' checksums with their number behind.
func (c checksum) multipartSum(kind string, parts ...[]byte) string {
	if kind == "FULL_OBJECT" {
		return c.sum(bytes.Join(parts, nil))
	}
	var sums []byte
	for _, p := range parts {
		sums = append(sums, c.raw(p)...)
	}
	return c.sum(sums) + "-" + itoa(len(parts))
}

// field returns the element of a result that belongs to the algorithm.
func (c checksum) field(crc32, crc32c, crc64, sha1, sha256 string) string {
	return map[string]string{"CRC32": crc32, "CRC32C": crc32c, "CRC64NVME": crc64, "SHA1": sha1, "SHA256": sha256}[c.name]
}

// Source: AWS, "Checking object integrity in Amazon S3": which type each
// algorithm has for multipart uploads.
func TestChecksumMultipart(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	parts := [][]byte{noise(minPart, 5), noise(1000, 6)}
	for _, tt := range []struct{ name, kind string }{
		{"CRC32", "COMPOSITE"}, {"CRC32", "FULL_OBJECT"}, {"CRC32C", "FULL_OBJECT"},
		{"CRC64NVME", "FULL_OBJECT"}, {"SHA256", "COMPOSITE"},
	} {
		t.Run(tt.name+" "+tt.kind, func(t *testing.T) {
			t.Parallel()
			b, c := b.with(t), checksumNamed(tt.name)
			key := tt.name + tt.kind
			u := b.create(key, "x-amz-checksum-algorithm", tt.name, "x-amz-checksum-type", tt.kind)
			u.reply.wantHeader("X-Amz-Checksum-Algorithm", tt.name, "X-Amz-Checksum-Type", tt.kind)
			for i, data := range parts {
				u.part(i+1, data, c.header, c.sum(data)).want(http.StatusOK).wantHeader(c.header, c.sum(data))
			}
			want := c.multipartSum(tt.kind, parts...)
			done := u.complete("x-amz-checksum-type", tt.kind)
			if got := c.field(done.ChecksumCRC32, done.ChecksumCRC32C, done.ChecksumCRC64NVME, done.ChecksumSHA1, done.ChecksumSHA256); got != want || done.ChecksumType != tt.kind {
				t.Errorf("Complete: %s %q %q, want %q %q", tt.name, got, done.ChecksumType, want, tt.kind)
			}
			b.head(key, "x-amz-checksum-mode", "ENABLED").want(http.StatusOK).wantHeader(c.header, want, "X-Amz-Checksum-Type", tt.kind)
		})
	}
}

// The cheaper cases of multipart checksums need one part only.
func TestChecksumMultipartTypes(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := noise(3000, 7)
	valid := map[string]string{
		"CRC32": "COMPOSITE FULL_OBJECT", "CRC32C": "COMPOSITE FULL_OBJECT", "CRC64NVME": "FULL_OBJECT",
		"SHA1": "COMPOSITE", "SHA256": "COMPOSITE",
	}
	for _, c := range checksums() {
		for _, kind := range []string{"COMPOSITE", "FULL_OBJECT"} {
			t.Run(c.name+" "+kind, func(t *testing.T) {
				t.Parallel()
				b := b.with(t)
				key := c.name + kind
				// Names in any letter case.
				pairs := []string{"x-amz-checksum-algorithm", strings.ToLower(c.name), "x-amz-checksum-type", strings.ToLower(kind)}
				if !strings.Contains(valid[c.name], kind) {
					b.do(call{method: http.MethodPost, path: b.path(key), query: query("uploads?"), header: headers(pairs...)}).
						wantError(http.StatusBadRequest, "InvalidRequest")
					return
				}
				u := b.create(key, pairs...)
				u.part(1, data, c.header, c.sum(data)).want(http.StatusOK)
				u.complete()
				b.head(key, "x-amz-checksum-mode", "ENABLED").wantHeader(c.header, c.multipartSum(kind, data), "X-Amz-Checksum-Type", kind)
			})
		}
	}
}

func TestChecksumMultipartRules(t *testing.T) {
	t.Parallel()
	b := connect(t).newBucket()
	data := noise(2000, 8)
	crc32, crc32c, nvme, sha := checksumNamed("CRC32"), checksumNamed("CRC32C"), checksumNamed("CRC64NVME"), checksumNamed("SHA256")

	t.Run("a part of another algorithm is refused", func(t *testing.T) {
		u := b.with(t).create("mismatch", "x-amz-checksum-algorithm", "CRC32")
		u.part(1, data, sha.header, sha.sum(data)).wantError(http.StatusBadRequest, "InvalidRequest")
	})
	t.Run("parts with CRC32 where Create named none", func(t *testing.T) {
		b := b.with(t)
		u := b.create("unnamed")
		u.part(1, data, crc32.header, crc32.sum(data)).want(http.StatusOK).wantHeader(crc32.header, crc32.sum(data))
		u.complete()
		b.get("unnamed").want(http.StatusOK).wantBody(data)
	})
	t.Run("Complete without a checksum after CRC64NVME", func(t *testing.T) {
		b := b.with(t)
		u := b.create("nvme", "x-amz-checksum-algorithm", "CRC64NVME")
		u.part(1, data).want(http.StatusOK) // the server computes it
		done := u.complete()
		if done.ChecksumCRC64NVME != nvme.sum(data) || done.ChecksumType != "FULL_OBJECT" {
			t.Errorf("%+v", done)
		}
	})
	t.Run("nothing named: CRC64NVME of the whole", func(t *testing.T) {
		b := b.with(t)
		u := b.create("nothing")
		u.part(1, data).want(http.StatusOK)
		u.complete()
		b.head("nothing", "x-amz-checksum-mode", "ENABLED").want(http.StatusOK).wantHeader(nvme.header, nvme.sum(data), "X-Amz-Checksum-Type", "FULL_OBJECT")
	})
	t.Run("a wrong part", func(t *testing.T) {
		u := b.with(t).create("wrong", "x-amz-checksum-algorithm", "CRC32C")
		u.part(1, data, crc32c.header, crc32c.sum(data[1:])).wantError(http.StatusBadRequest, "BadDigest")
	})
	t.Run("a wrong checksum of the whole", func(t *testing.T) {
		b := b.with(t)
		u := b.create("whole", "x-amz-checksum-algorithm", "CRC32", "x-amz-checksum-type", "FULL_OBJECT")
		u.part(1, data, crc32.header, crc32.sum(data)).want(http.StatusOK)
		u.tryComplete(crc32.header, crc32.sum(data[1:]), "x-amz-checksum-type", "FULL_OBJECT").wantError(http.StatusBadRequest, "BadDigest")
		b.wantAbsent("whole")
		if done := u.complete(crc32.header, crc32.sum(data), "x-amz-checksum-type", "FULL_OBJECT"); done.ChecksumCRC32 != crc32.sum(data) {
			t.Errorf("%+v", done)
		}
	})
	t.Run("a wrong checksum of a part in the list", func(t *testing.T) {
		u := b.with(t).create("list", "x-amz-checksum-algorithm", "SHA256")
		tag := u.part(1, data, sha.header, sha.sum(data)).etag()
		u.send("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>"+tag+"</ETag><ChecksumSHA256>"+sha.sum(data[1:])+"</ChecksumSHA256></Part></CompleteMultipartUpload>").
			wantError(http.StatusBadRequest, "InvalidPart", "BadDigest")
	})
	t.Run("unknown names", func(t *testing.T) {
		b := b.with(t)
		create := call{method: http.MethodPost, path: b.path("unknown"), query: query("uploads?")}
		create.header = headers("x-amz-checksum-algorithm", "MD4")
		b.do(create).wantError(http.StatusBadRequest, "InvalidRequest")
		create.header = headers("x-amz-checksum-type", "FULL_OBJECT")
		b.do(create).wantError(http.StatusBadRequest, "InvalidRequest")
		create.header = headers("x-amz-checksum-algorithm", "CRC32", "x-amz-checksum-type", "PARTIAL")
		b.do(create).wantError(http.StatusBadRequest, "InvalidRequest")
	})
}
