package seal

import (
	"errors"
	"fmt"
	"io"

	"github.com/ruche-storage/ruche/metadata"
)

// Part is what must be known of a part to open it.
type Part struct {
	Format      Format
	Key         Key // data key, unwrapped; ignored by FormatPlain
	ID          metadata.PartID
	Compression metadata.Compression
	Bytes       int64 // plain bytes
	SealedBytes int64
	IndexBytes  int64 // 0 without compression
}

// Fetch returns n sealed bytes of a part from offset off.
type Fetch func(off, n int64) (io.ReadCloser, error)

// Open returns a reader of the plain bytes [off, off+n) of a part. It asks
// fetch for the sealed bytes it needs, once, and once more before that for the
// frame index of a compressed part. Errors wrap [ErrLength] if the range or
// the lengths of p are impossible, [ErrOpen] or [ErrCompressed] if the bytes
// are not those of the part; those of fetch come through.
//
// Every byte that is read was found authentic first. What fetch returns may be
// a [Lender]; what Open returns is an [io.WriterTo]. The reader must be closed; that closes what fetch returned. c may be nil for parts that are not
// compressed.
func (c *Codecs) Open(p Part, off, n int64, fetch Fetch) (io.ReadCloser, error) {
	stream, err := p.Format.PlainLength(p.SealedBytes)
	if err != nil {
		return nil, err
	}
	if off < 0 || n < 0 || off > p.Bytes || n > p.Bytes-off {
		return nil, fmt.Errorf("%w: %d bytes from %d of a part of %d", ErrLength, n, off, p.Bytes)
	}
	opener := NewOpener(p.Format, p.Key, p.ID, p.Compression)
	if p.Compression == metadata.CompressionOff {
		if stream != p.Bytes || p.IndexBytes != 0 {
			return nil, fmt.Errorf("%w: %d bytes sealed as %d", ErrLength, p.Bytes, p.SealedBytes)
		}
		return openStream(opener, p.SealedBytes, off, n, fetch)
	}
	if p.IndexBytes < 1 || p.IndexBytes > min(stream, MaxIndexBytes) {
		return nil, fmt.Errorf("%w: frame index of %d bytes", ErrLength, p.IndexBytes)
	}
	index, err := p.readIndex(opener, stream, fetch)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return io.NopCloser(eof{}), nil
	}
	storedOff, storedLength := index.Stored(off, n)
	stored, err := openStream(opener, p.SealedBytes, storedOff, storedLength, fetch)
	if err != nil {
		return nil, err
	}
	frames := index.NewReader(c, p.Compression, stored, off, n)
	return &chained{Reader: frames, own: frames, under: stored}, nil
}

func (p *Part) readIndex(opener *Opener, stream int64, fetch Fetch) (*Index, error) {
	r, err := openStream(opener, p.SealedBytes, stream-p.IndexBytes, p.IndexBytes, fetch)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b := make([]byte, p.IndexBytes)
	if _, err := readFull(r, b); err != nil {
		return nil, fmt.Errorf("seal: frame index: %w", err)
	}
	return ParseIndex(b, p.Bytes, stream)
}

// openStream opens a range of what was sealed, be it a body or its frames.
func openStream(o *Opener, sealed, off, n int64, fetch Fetch) (io.ReadCloser, error) {
	r, err := o.Format().Range(sealed, off, n)
	if err != nil {
		return nil, err
	}
	if r.Sealed == 0 {
		return io.NopCloser(eof{}), nil
	}
	under, err := fetch(r.Offset, r.Sealed)
	if err != nil {
		return nil, err
	}
	return &chained{Reader: o.NewReader(under, r, nil), under: under}, nil
}

// chained closes what lies under a reader with it.
type chained struct {
	io.Reader
	own   io.Closer // of the reader itself, or nil
	under io.Closer
}

// WriteTo implements [io.WriterTo] by the reader's own.
func (c *chained) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, c.Reader) }

// Close closes the reader and what it reads from.
func (c *chained) Close() error {
	var err error
	if c.own != nil {
		err = c.own.Close()
	}
	return errors.Join(err, c.under.Close())
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }
