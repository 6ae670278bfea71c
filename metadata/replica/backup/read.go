package backup

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/keyring"
	"github.com/ruche-storage/ruche/metadata/replica/snapshot"
)

func sumOf(b []byte) metadata.Sum { return sha256.Sum256(b) }

// maxFrameBytes is the largest frame: the largest piece, its head and what
// sealing adds.
const maxFrameBytes = snapshot.MaxPieceBytes + 64<<10

// sink takes what a backup holds, group after group.
type sink interface {
	begin(snapshot.Header) error
	add(*snapshot.Piece) error
	end(context.Context, snapshot.Summary) error
}

// reader reads frames.
type reader struct {
	r      io.Reader
	info   Info
	seal   *sealer
	number uint64
	offset int64 // of the next frame, from the first one
	buf    []byte
	totals Totals
}

func newReader(r io.Reader, keys *keyring.Keyring) (*reader, error) {
	i, head, err := readHead(r)
	if err != nil {
		return nil, err
	}
	key, err := openKey(keys, &i)
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	s, err := newSealer(key, head)
	return &reader{r: r, info: i, seal: s}, err
}

// Verify reads a whole backup and checks all of it, as a restoration would,
// but for its tables being opened.
func Verify(ctx context.Context, r io.Reader, keys *keyring.Keyring) (Info, Totals, error) {
	in, err := newReader(r, keys)
	if err == nil {
		err = in.walk(ctx, new(verifier))
	}
	if err != nil {
		return Info{}, Totals{}, err
	}
	return in.info, in.totals, nil
}

// walk reads all frames and gives them to s. It returns nil only if the file is
// whole and ends there.
func (r *reader) walk(ctx context.Context, s sink) error {
	for group := range uint32(metadata.DataGroups + 1) {
		if err := r.group(ctx, group, s); err != nil {
			return fmt.Errorf("backup: group %d, frame %d, %d bytes behind the head: %w", group, r.number, r.offset, err)
		}
	}
	if err := r.last(); err != nil {
		return fmt.Errorf("backup: end of the file, frame %d, %d bytes behind the head: %w", r.number, r.offset, err)
	}
	return nil
}

func (r *reader) group(ctx context.Context, group uint32, s sink) error {
	b, err := r.want(frameGroup)
	if err != nil {
		return err
	}
	h, err := snapshot.DecodeHeader(b)
	if err != nil {
		return damaged(err)
	}
	if h.Group != group || h.Cluster != r.info.Cluster {
		return fmt.Errorf("%w: group %d of cluster %x", ErrDamaged, h.Group, h.Cluster)
	}
	if err := s.begin(h); err != nil {
		return err
	}
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		kind, b, err := r.frame()
		if err != nil {
			return err
		}
		switch kind {
		case framePiece:
			p, err := parsePiece(b)
			if err == nil {
				err = s.add(&p)
			}
			if err != nil {
				return damaged(err)
			}
		case frameSummary:
			sum, err := snapshot.DecodeSummary(b)
			if err == nil {
				err = s.end(ctx, sum)
			}
			if err != nil {
				return damaged(err)
			}
			r.totals.Groups++
			r.totals.Pieces += sum.Pieces
			r.totals.Rows += sum.Rows
			r.totals.Bytes += sum.Bytes
			return nil
		default:
			return fmt.Errorf("%w: frame of kind %d", ErrDamaged, kind)
		}
	}
}

// damaged lets errors of what the file holds wrap ErrDamaged, too.
func damaged(err error) error {
	for _, e := range []error{snapshot.ErrCorrupt, snapshot.ErrForeign, snapshot.ErrOrder, snapshot.ErrIncomplete} {
		if errors.Is(err, e) && !errors.Is(err, ErrDamaged) {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
	if errors.Is(err, snapshot.ErrVersion) {
		return fmt.Errorf("%w: %w", ErrNewer, err)
	}
	return err
}

func (r *reader) last() error {
	b, err := r.want(frameEnd)
	if err != nil {
		return err
	}
	t, err := parseTotals(b)
	if err != nil {
		return err
	}
	if t != r.totals {
		return fmt.Errorf("%w: it holds %+v and says %+v", ErrDamaged, r.totals, t)
	}
	switch n, err := io.ReadFull(r.r, make([]byte, 1)); {
	case n > 0:
		return fmt.Errorf("%w: bytes behind the end", ErrDamaged)
	case err != io.EOF:
		return err
	}
	return nil
}

func parsePiece(b []byte) (snapshot.Piece, error) {
	if len(b) < 4 {
		return snapshot.Piece{}, ErrDamaged
	}
	n := binary.LittleEndian.Uint32(b)
	b = b[4:]
	if uint64(n) > uint64(len(b)) {
		return snapshot.Piece{}, ErrDamaged
	}
	p, err := snapshot.DecodePiece(b[:n])
	p.Data = b[n:]
	return p, err
}

func (r *reader) want(kind byte) ([]byte, error) {
	got, b, err := r.frame()
	if err == nil && got != kind {
		err = fmt.Errorf("%w: frame of kind %d instead of %d", ErrDamaged, got, kind)
	}
	return b, err
}

// frame returns the next frame, which is valid until the next call.
func (r *reader) frame() (kind byte, b []byte, err error) {
	var prefix [5]byte
	if _, err := io.ReadFull(r.r, prefix[:]); err != nil {
		return 0, nil, cut(err, ErrTruncated)
	}
	n := binary.LittleEndian.Uint32(prefix[1:])
	if n > maxFrameBytes {
		return 0, nil, fmt.Errorf("%w: frame of %d bytes", ErrDamaged, n)
	}
	if err := r.fill(int(n)); err != nil {
		return 0, nil, cut(err, ErrTruncated)
	}
	b, err = r.seal.open(r.number, prefix[0], r.buf)
	if err != nil {
		return 0, nil, err
	}
	r.number++
	r.offset += int64(len(prefix)) + int64(n)
	return prefix[0], b, nil
}

// fill reads n bytes into the buffer, which grows with what is there rather
// than with what a damaged length says.
func (r *reader) fill(n int) error {
	const step = 1 << 20
	r.buf = r.buf[:0]
	for len(r.buf) < n {
		from := len(r.buf)
		more := min(n-from, max(step, cap(r.buf)-from))
		if cap(r.buf)-from < more {
			r.buf = append(r.buf, make([]byte, more)...)
		}
		r.buf = r.buf[:from+more]
		if _, err := io.ReadFull(r.r, r.buf[from:]); err != nil {
			return err
		}
	}
	return nil
}

// verifier checks pieces and keeps none.
type verifier struct {
	header snapshot.Header
	at     snapshot.Position
}

func (v *verifier) begin(h snapshot.Header) error {
	v.header, v.at = h, h.Start()
	return nil
}

func (v *verifier) add(p *snapshot.Piece) (err error) {
	v.at, err = v.header.Check(v.at, p)
	return err
}

func (v *verifier) end(_ context.Context, sum snapshot.Summary) error {
	if v.at.Summary() != sum {
		return fmt.Errorf("%w: the group differs from its summary", ErrDamaged)
	}
	return nil
}
