package sigv4

import (
	"bufio"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"

	"github.com/minio/sha256-simd"
)

// Body is a verified request body. It is not safe for concurrent use.
type Body struct {
	id       *Identity
	source   io.Reader
	raw      int64 // bytes read from the source, framing included
	given    int64 // bytes of content read so far
	err      error // what Read returns from now on; io.EOF when all is verified
	trailers []Field

	buffers *bodyBuffers // nil when closed, or when nothing needs them
	chunk   chunkState
}

// bodyBuffers is the memory of one body that is worth pooling.
type bodyBuffers struct {
	reader *bufio.Reader
	hash   hash.Hash
	sts    []byte // hmacBlock bytes for the key pad, then a chunk's string to sign
	digest [32]byte
}

// sum ends the present hash and begins the next. The result is valid until
// the next call.
func (b *bodyBuffers) sum() []byte {
	b.hash.Sum(b.digest[:0])
	b.hash.Reset()
	return b.digest[:]
}

// lineBytes bounds a line of framing: a chunk header or a trailing header. It
// is the size of the read buffer too: a small one, since content is read past
// it straight into the caller's memory.
const lineBytes = 4 << 10

func newBodyBuffers() any {
	return &bodyBuffers{
		reader: bufio.NewReaderSize(nil, lineBytes),
		hash:   sha256.New(),
		sts:    make([]byte, hmacBlock, 512),
	}
}

// errClosed is returned by Read after Close.
var errClosed = errors.New("sigv4: body is closed")

// Body wraps the body of the request, which is normally r.Body. Reading it
// gives the bytes without framing and ends with io.EOF only when everything
// that the client promised (length, hash, chunk and trailer signatures) held.
// Otherwise Read returns an *[Error], and what was read must be thrown away;
// errors of source that are not its early end come back wrapped.
//
// When the length is known, the last bytes are held back until the whole is
// verified: a caller that got Length bytes need not read on to io.EOF. With a
// Length of 0 it must call Read once, for even an empty body has a hash.
//
// Call it once a request, and Close what it returns.
func (id *Identity) Body(source io.Reader) *Body {
	b := &Body{id: id, source: source}
	if id.Payload != PayloadUnsigned {
		b.buffers = id.bodies.Get().(*bodyBuffers)
		b.buffers.hash.Reset()
	}
	if id.Payload.Chunked() {
		b.buffers.reader.Reset((*countingReader)(b))
		b.startChunks()
	}
	return b
}

// Read implements io.Reader.
func (b *Body) Read(p []byte) (int, error) {
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	var n int
	var err error
	if b.id.Payload.Chunked() {
		n, err = b.readChunked(p)
	} else {
		n, err = b.readPlain(p)
	}
	if err != nil {
		b.err = err
	}
	if err == io.EOF && n > 0 {
		err = nil
	}
	return n, err
}

// readPlain reads a body without framing.
func (b *Body) readPlain(p []byte) (int, error) {
	n, err := b.source.Read(p)
	b.given += int64(n)
	if b.id.Length >= 0 && b.given > b.id.Length {
		return 0, wrongLength(b.id.Length, b.given)
	}
	if b.id.Payload == PayloadSigned {
		b.buffers.hash.Write(p[:n])
	}
	if err != nil && err != io.EOF {
		return n, sourceError(err)
	}
	if err == nil && (b.id.Length < 0 || b.given < b.id.Length) {
		return n, nil
	}
	if b.id.Length >= 0 && b.given < b.id.Length {
		return n, incompleteBody(io.ErrUnexpectedEOF)
	}
	if b.id.Payload == PayloadSigned {
		if err := b.compareHash(); err != nil {
			return 0, err
		}
	}
	return n, io.EOF
}

func (b *Body) compareHash() error {
	sum := b.buffers.sum()
	if subtle.ConstantTimeCompare(sum, b.id.SHA256[:]) == 1 {
		return nil
	}
	return refuse(http.StatusBadRequest, "XAmzContentSHA256Mismatch",
		"The provided 'x-amz-content-sha256' header does not match what was computed.",
		Field{"ClientComputedContentSHA256", hex.EncodeToString(b.id.SHA256[:])},
		Field{"S3ComputedContentSHA256", hex.EncodeToString(sum)})
}

// sourceError says that the source failed: its early end is the client's
// fault, anything else (a time-out, a cancelled request) the caller's matter.
func sourceError(err error) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return incompleteBody(io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("read request body: %w", err)
}

// Close gives pooled buffers back. It neither closes nor drains the underlying
// reader. Reads after Close fail; trailers can still be asked for.
func (b *Body) Close() error {
	if b.buffers != nil {
		b.buffers.reader.Reset(nil)
		b.id.bodies.Put(b.buffers)
		b.buffers = nil
	}
	if b.err == nil || b.err == io.EOF {
		b.err = errClosed
	}
	return nil
}

// Trailer returns the value of a trailing header, by its lower-case name, and
// whether it was sent. Before the whole body was read there are none.
func (b *Body) Trailer(name string) (string, bool) {
	for _, f := range b.trailers {
		if f.Name == name {
			return f.Value, true
		}
	}
	return "", false
}

// countingReader is the source of a framed body; it counts.
type countingReader Body

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.source.Read(p)
	c.raw += int64(n)
	return n, err
}
