package gateway

import (
	"crypto/md5"
	"hash"
	"io"
	"strconv"

	"github.com/ruche-storage/ruche/gateway/checksum"
	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/gateway/sigv4"
	"github.com/ruche-storage/ruche/gateway/wire"
	"github.com/ruche-storage/ruche/metadata"
)

// verified returns the body behind the checks of its signature. Reading it is
// what makes net/http send 100 Continue, so everything that can be refused by
// the head has to be refused before.
func (c *call) verified() *sigv4.Body {
	if c.verifiedBody == nil {
		c.verifiedBody = c.id.Body(c.body)
	}
	return c.verifiedBody
}

// closeBody gives the buffers of the body back.
func (c *call) closeBody() {
	if c.verifiedBody != nil {
		c.verifiedBody.Close()
	}
}

// wantsClose reports whether the rest of the body is better cut off than read:
// net/http would read a part of it to keep the connection.
func (c *call) wantsClose() bool {
	return !c.body.ended && (c.r.ContentLength < 0 || c.r.ContentLength-c.body.bytes > 64<<10)
}

// upload returns the body of a PUT or a part for the engine.
func (c *call) upload() (object.Body, error) {
	h := c.r.Header
	length := c.id.Length
	if length < 0 || length == 0 && !c.id.Payload.Chunked() && h.Get("Content-Length") == "" {
		return object.Body{}, wire.MissingContentLength
	}
	if length > object.MaxPutBytes {
		return object.Body{}, wire.EntityTooLarge.With("ProposedSize", strconv.FormatInt(length, 10)).
			With("MaxSizeAllowed", strconv.FormatInt(object.MaxPutBytes, 10))
	}
	sum, err := contentMD5(h)
	if err != nil {
		return object.Body{}, err
	}
	b := object.Body{Bytes: length, MD5: sum}
	var trailer string
	if b.Checksum, trailer, err = announcedChecksum(h, c.id.TrailerNames); err != nil {
		return object.Body{}, err
	}
	body := c.verified()
	b.Reader = body
	if trailer != "" {
		b.Trailer = func() (string, error) { return trailerValue(body, b.Checksum.Algorithm, trailer) }
	}
	c.objectSize = length
	return b, nil
}

// trailerValue is the checksum that came behind a body.
func trailerValue(body *sigv4.Body, a metadata.ChecksumAlgorithm, name string) (string, error) {
	v, ok := body.Trailer(name)
	if !ok {
		return "", wire.NewError(400, "MalformedTrailerError", "The request contained trailing data that was not well-formed or did not conform to our published schema.")
	}
	raw, err := checksum.ParseValue(a, v)
	if err != nil {
		return "", wire.InvalidRequest.Say("Value for " + name + " trailing header is invalid.").Because(err)
	}
	return string(raw), nil
}

// document returns the body of a call whose body is XML. Its Read ends with
// io.EOF only if the signature, Content-MD5 and the checksum hold.
func (c *call) document() (io.Reader, error) {
	want, err := contentMD5(c.r.Header)
	if err != nil {
		return nil, err
	}
	sum, trailer, err := announcedChecksum(c.r.Header, c.id.TrailerNames)
	if err != nil {
		return nil, err
	}
	d := &documentBody{body: c.verified(), wantMD5: want, want: sum, trailer: trailer}
	if want != nil {
		d.md5 = md5.New()
	}
	if sum.Algorithm != metadata.ChecksumNone {
		d.hash = checksum.New(sum.Algorithm)
	}
	return d, nil
}

// documentBody compares the digests of a small body at its end. Those of large
// bodies are the engine's, which computes them anyway.
type documentBody struct {
	body    *sigv4.Body
	wantMD5 *[16]byte
	md5     hash.Hash // nil if not asked for
	want    metadata.Checksum
	trailer string
	hash    hash.Hash // nil if not asked for
}

// Read implements [io.Reader].
func (d *documentBody) Read(p []byte) (int, error) {
	n, err := d.body.Read(p)
	if d.md5 != nil {
		d.md5.Write(p[:n])
	}
	if d.hash != nil {
		d.hash.Write(p[:n])
	}
	if err == io.EOF {
		if bad := d.compare(); bad != nil {
			return n, bad
		}
	}
	return n, err
}

func (d *documentBody) compare() error {
	if d.md5 != nil && [16]byte(d.md5.Sum(nil)) != *d.wantMD5 {
		return wire.BadDigest
	}
	if d.hash == nil {
		return nil
	}
	want := d.want.Value
	if d.trailer != "" {
		var err error
		if want, err = trailerValue(d.body, d.want.Algorithm, d.trailer); err != nil {
			return err
		}
	}
	if string(d.hash.Sum(nil)) != want {
		return wire.BadDigest.Say("The " + checksum.Name(d.want.Algorithm) + " you specified did not match the calculated checksum.")
	}
	return nil
}
