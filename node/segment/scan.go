package segment

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/ruche-storage/ruche/metadata"
)

// ScanStats counts what a scan met.
type ScanStats struct {
	Records      int   // whole records
	Damaged      int   // sound headers without a sound body or footer
	Incompatible int   // records of a newer format, left alone
	Lost         int   // places behind a record at which something else than a header or zeros begins
	Skipped      int64 // bytes in which no header begins
}

// scanWindow is how many bytes a scan looks through at once for the next
// header.
const scanWindow = 256 << 10

// Scan reads a shared segment of size bytes from its beginning and calls visit
// for every record whose header is sound, in order of offset. The footer is
// that of a record that is sound throughout, and nil of a damaged one: with a
// sound footer only cells of its body are bad; without one the entry is
// Damaged, and reaches as far as the header says, at most to the next header.
//
// The scan recognises headers by segment id and offset. It never reads a byte
// more often than a bounded number of times, and stops at an error of visit or
// of r.
func Scan(r io.ReaderAt, id ID, size int64, visit func(e Entry, f *Footer) error) (ScanStats, error) {
	var stats ScanStats
	s := scanner{r: r, id: id, size: size, visit: visit, stats: &stats}
	for off := int64(0); off < size; {
		at, err := s.nextHeader(off)
		if err != nil {
			return stats, err
		}
		if at > off && off == s.begins {
			void, err := s.isVoid(off)
			if err != nil {
				return stats, err
			}
			if !void {
				stats.Lost++
			}
		}
		stats.Skipped += at - off
		if at >= size {
			break
		}
		next, err := s.record(at)
		if err != nil {
			return stats, err
		}
		off = next
	}
	return stats, s.settle(size)
}

type scanner struct {
	r      io.ReaderAt
	id     ID
	size   int64
	visit  func(Entry, *Footer) error
	stats  *ScanStats
	verify []byte
	begins int64  // where the next record should, if the one before is known
	open   *Entry // a record without a sound footer, until its end is known

	window []byte // bytes of the file from start on
	start  int64
}

// isVoid reports whether a freed record or nothing begins at off: zeros.
func (s *scanner) isVoid(off int64) (bool, error) {
	head := make([]byte, min(Align, s.size-off))
	n, err := readUpTo(s.r, head, off)
	return len(bytes.Trim(head[:n], "\x00")) == 0, err
}

// nextHeader returns the first offset from off on at which a header may begin,
// or the size of the file.
func (s *scanner) nextHeader(off int64) (int64, error) {
	for ; off+Align <= s.size; off += Align {
		if off < s.start || off+8 > s.start+int64(len(s.window)) {
			if err := s.fill(off); err != nil {
				return 0, err
			}
			if len(s.window) < 8 {
				break
			}
		}
		if _, err := HeaderBytes(s.window[off-s.start:]); err == nil {
			return off, nil
		}
	}
	return s.size, nil
}

func (s *scanner) fill(off int64) error {
	if s.window == nil {
		s.window = make([]byte, min(scanWindow, s.size))
	}
	s.window = s.window[:cap(s.window)]
	n, err := readUpTo(s.r, s.window, off)
	s.window, s.start = s.window[:n], off
	return err
}

// settle visits the record that is open, now that another one begins at end.
func (s *scanner) settle(end int64) error {
	if s.open == nil {
		return nil
	}
	e := *s.open
	s.open = nil
	e.Bytes = min(e.Bytes, end-e.Offset)
	return s.visit(e, nil)
}

// record visits the record at off, and returns where to go on.
func (s *scanner) record(off int64) (int64, error) {
	h, header, err := ReadHeader(s.r, s.id, off)
	switch {
	case errors.Is(err, ErrIncompatible):
		return off + Align, s.incompatible(off)
	case errors.Is(err, ErrBad), errors.Is(err, ErrVoid):
		if off == s.begins {
			s.stats.Lost++ // what looked like a header is none
		}
		s.stats.Skipped += Align
		return off + Align, nil
	case err != nil:
		return 0, err
	}
	if err := s.settle(off); err != nil {
		return 0, err
	}
	behind := off + int64(len(header))
	f, bodyErr, err := s.footer(h, header, behind)
	switch {
	case errors.Is(err, ErrBad):
		s.stats.Damaged++
		e := NewEntry(h, len(header), nil, s.size-off)
		if sums := h.sums(); h.Body >= 0 && sums <= MaxSums {
			e.Bytes = min(e.Bytes, RecordBytes(len(header), h.Body, sums))
		}
		s.open = &e
		return behind, nil
	case err != nil:
		return 0, err
	}
	length := RecordBytes(len(header), f.Body, len(f.Sums))
	e := NewEntry(h, len(header), f, length)
	if bodyErr != nil {
		s.stats.Damaged++
		f = nil
	} else {
		s.stats.Records++
	}
	s.begins = off + length
	return s.begins, s.visit(e, f)
}

// sums is how many sums the footer behind a header has.
func (h *Header) sums() int {
	if h.Record.Type != metadata.RecordShard {
		return 0
	}
	return h.Record.Scheme.Total()
}

// incompatible counts the header of a newer format at off, if it is one of
// this place and not of bytes that a client stored.
func (s *scanner) incompatible(off int64) error {
	buf := make([]byte, MaxHeaderBytes)
	n, err := readUpTo(s.r, buf, off)
	if err != nil {
		return err
	}
	if CheckHeader(buf[:n], s.id, off) != nil {
		s.stats.Skipped += Align
		return nil
	}
	s.stats.Incompatible++
	return s.settle(off)
}

// footer reads the footer of a record and says what is wrong with its body.
func (s *scanner) footer(h *Header, header []byte, bodyAt int64) (f *Footer, bodyErr, err error) {
	if h.Body < 0 || bodyAt+h.Body > s.size {
		return nil, nil, fmt.Errorf("%w: body of %d bytes", ErrBad, h.Body)
	}
	if f, err = ReadFooter(s.r, header, bodyAt, h.Body); err != nil {
		return nil, nil, err
	}
	if s.verify == nil {
		s.verify = make([]byte, min(VerifyBufferBytes, s.size))
	}
	err = VerifyBody(s.r, bodyAt, &h.Record, f, s.verify)
	if errors.Is(err, metadata.ErrCorrupt) {
		return f, err, nil
	}
	return f, nil, err
}
