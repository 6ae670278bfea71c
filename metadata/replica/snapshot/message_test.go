package snapshot

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestEncodings pins the messages of version 1.
func TestEncodings(t *testing.T) {
	t.Parallel()
	h := Header{ID: ID{1, 2}, Cluster: [16]byte{3}, Group: 16, Index: 300, Term: 7, Conf: []byte{8, 1}}
	p := Piece{Snapshot: h.ID, Number: 2, First: []byte("a"), Last: []byte("b"), Rows: 5, Bytes: 600, Sum: [32]byte{4}, Chain: [32]byte{5}}
	at := Position{Snapshot: h.ID, Pieces: 2, After: []byte("b"), Rows: 9, Bytes: 1200, Chain: p.Chain}
	sum := at.Summary()
	for _, c := range []struct {
		name, want string
		message    []byte
		decode     func([]byte) (any, error)
		value      any
	}{
		{"header", "0801121001020000000000000000000000000000" + "1a1003000000000000000000000000000000" + "201028ac0230073a020801",
			h.Append(nil), func(b []byte) (any, error) { return DecodeHeader(b) }, h},
		{"piece", "08011210010200000000000000000000000000001802220161" + "2a016230053" + "8d8044220" + "04" + zeros(31) + "4a2005" + zeros(31),
			p.AppendHead(nil), func(b []byte) (any, error) { return DecodePiece(b) }, p},
		{"position", "0801121001020000000000000000000000000000180222016228" + "0930b0093a2005" + zeros(31),
			at.Append(nil), func(b []byte) (any, error) { return DecodePosition(b) }, at},
		{"summary", "080112100102000000000000000000000000000018022009" + "28b009322005" + zeros(31),
			sum.Append(nil), func(b []byte) (any, error) { return DecodeSummary(b) }, sum},
	} {
		if got := hex.EncodeToString(c.message); got != c.want {
			t.Errorf("%s is\n%s, want\n%s", c.name, got, c.want)
		}
		got, err := c.decode(c.message)
		if diff := cmp.Diff(c.value, got); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", c.name, err, diff)
		}
		for n := range c.message {
			if _, err := c.decode(c.message[:n]); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s cut to %d bytes: %v", c.name, n, err)
			}
		}
		if _, err := c.decode(append(bytes.Clone(c.message), 0)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s with a byte behind it: %v", c.name, err)
		}
		later := bytes.Clone(c.message)
		later[1] = FormatVersion + 1
		if _, err := c.decode(later); !errors.Is(err, ErrVersion) {
			t.Errorf("%s of a later version: %v", c.name, err)
		}
	}
}

func zeros(n int) string { return hex.EncodeToString(make([]byte, n)) }

// FuzzDecode checks that whatever is taken has no other encoding.
func FuzzDecode(f *testing.F) {
	h := Header{ID: ID{1}, Group: 3, Index: 1 << 40, Conf: []byte{1}}
	p := Piece{Snapshot: h.ID, Number: 1, First: []byte("a"), Last: []byte("b")}
	at := h.Start().next(&p)
	sum := at.Summary()
	for _, b := range [][]byte{h.Append(nil), p.AppendHead(nil), at.Append(nil), sum.Append(nil)} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var again [][]byte
		if h, err := DecodeHeader(b); err == nil {
			again = append(again, h.Append(nil))
		}
		if p, err := DecodePiece(b); err == nil {
			again = append(again, p.AppendHead(nil))
		}
		if at, err := DecodePosition(b); err == nil {
			again = append(again, at.Append(nil))
		}
		if s, err := DecodeSummary(b); err == nil {
			again = append(again, s.Append(nil))
		}
		for _, a := range again {
			if !bytes.Equal(a, b) {
				t.Errorf("%x is encoded as %x", b, a)
			}
		}
	})
}

func TestNewID(t *testing.T) {
	t.Parallel()
	if id, err := NewID(bytes.NewReader(bytes.Repeat([]byte{7}, 16))); err != nil || id.String() != "07070707070707070707070707070707" {
		t.Errorf("NewID = %s, %v", id, err)
	}
	if _, err := NewID(bytes.NewReader(make([]byte, 15))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("NewID of a short source = %v", err)
	}
}

// TestLimiter adds up how long a sender is made to wait.
func TestLimiter(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	var slept time.Duration
	l := NewLimiter(1<<20, func() time.Time { return now }, func(ctx context.Context, d time.Duration) error {
		slept += d
		now = now.Add(d)
		return ctx.Err()
	})
	for range 10 {
		if err := l.Wait(t.Context(), 1<<19); err != nil {
			t.Fatal(err)
		}
	}
	if slept != 4500*time.Millisecond {
		t.Errorf("10 times half a second's worth took %v, want 4.5 s: nobody waits before the first", slept)
	}
	now = now.Add(time.Hour)
	slept = 0
	if err := l.Wait(t.Context(), 1<<30); err != nil || slept != 0 {
		t.Errorf("after an hour of rest: %v, %v", slept, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.ErrClosedPipe)
	for _, l := range []*Limiter{nil, l, NewLimiter(0, nil, nil)} {
		if err := l.Wait(ctx, 1); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("Wait = %v", err)
		}
	}
	if l := NewLimiter(0, nil, nil); l != nil || l.Wait(t.Context(), 1<<40) != nil {
		t.Error("no limit is a limit")
	}
}
