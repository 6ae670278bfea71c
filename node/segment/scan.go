package segment

import (
	"errors"
	"fmt"
	"io"
)

// ScanStats counts what a scan met.
type ScanStats struct {
	Records      int   // whole records
	Damaged      int   // sound headers without a sound body or footer
	Incompatible int   // records of a newer format, left alone
	Skipped      int64 // bytes that belong to no record
}

// scanWindow is how many bytes a scan looks through at once for the next
// header.
const scanWindow = 256 << 10

// Scan reads a shared segment of size bytes from its beginning and calls visit
// for every record whose header, body and footer are sound, in order of
// offset. It goes on behind a bad record at the next header, which it
// recognises by segment id and offset, and never reads a byte more often than
// a bounded number of times. It stops at an error of visit or of r.
func Scan(r io.ReaderAt, id ID, size int64, visit func(e Entry, f *Footer) error) (ScanStats, error) {
	var stats ScanStats
	s := scanner{r: r, id: id, size: size, stats: &stats}
	for off := int64(0); off < size; {
		at, err := s.nextHeader(off)
		if err != nil {
			return stats, err
		}
		stats.Skipped += at - off
		if at >= size {
			break
		}
		next, err := s.record(at, visit)
		if err != nil {
			return stats, err
		}
		off = next
	}
	return stats, nil
}

type scanner struct {
	r      io.ReaderAt
	id     ID
	size   int64
	stats  *ScanStats
	verify []byte

	window []byte // bytes of the file from start on
	start  int64
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

// record visits the record at off if it is whole, and returns where to go on.
func (s *scanner) record(off int64, visit func(Entry, *Footer) error) (int64, error) {
	h, header, err := ReadHeader(s.r, s.id, off)
	switch {
	case errors.Is(err, ErrIncompatible):
		s.stats.Incompatible++
		return off + Align, nil
	case errors.Is(err, ErrBad), errors.Is(err, ErrVoid):
		s.stats.Skipped += Align
		return off + Align, nil
	case err != nil:
		return 0, err
	}
	behind := off + int64(len(header))
	f, err := s.wholeRecord(h, header, behind)
	if errors.Is(err, ErrBad) {
		s.stats.Damaged++
		return behind, nil
	}
	if err != nil {
		return 0, err
	}
	s.stats.Records++
	length := RecordBytes(len(header), f.Body, len(f.Sums))
	if err := visit(NewEntry(h, len(header), f, length), f); err != nil {
		return 0, err
	}
	return off + length, nil
}

func (s *scanner) wholeRecord(h *Header, header []byte, bodyAt int64) (*Footer, error) {
	if h.Body < 0 || bodyAt+h.Body > s.size {
		return nil, fmt.Errorf("%w: body of %d bytes", ErrBad, h.Body)
	}
	f, err := ReadFooter(s.r, header, bodyAt, h.Body)
	if err != nil {
		return nil, err
	}
	if s.verify == nil {
		s.verify = make([]byte, min(VerifyBufferBytes, s.size))
	}
	return f, VerifyBody(s.r, bodyAt, &h.Record, f, s.verify)
}
