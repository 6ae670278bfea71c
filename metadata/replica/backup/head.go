package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
)

// Numbers of the fields of a head.
const (
	fieldID             = 1
	fieldCluster        = 2
	fieldCreated        = 3
	fieldStoreFormat    = 4
	fieldCommandVersion = 5
	fieldKey            = 6
	fieldWrapped        = 7
)

// appendHead appends the first bytes of a file, up to the first frame.
func appendHead(b []byte, i *Info) []byte {
	var m []byte
	m = appendBytes(m, fieldID, i.ID[:])
	m = appendBytes(m, fieldCluster, i.Cluster[:])
	m = appendUint(m, fieldCreated, uint64(i.Created.Unix()))
	m = appendUint(m, fieldStoreFormat, i.StoreFormat)
	m = appendUint(m, fieldCommandVersion, i.CommandVersion)
	if i.Sealed {
		m = appendBytes(m, fieldKey, i.Key[:])
		m = appendBytes(m, fieldWrapped, i.wrapped)
	}
	start := len(b)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, format)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(m)))
	b = append(b, m...)
	sum := sha256.Sum256(b[start:])
	return append(b, sum[:]...)
}

// Inspect reads the head of a backup, and nothing behind it.
func Inspect(r io.Reader) (Info, error) {
	i, _, err := readHead(r)
	return i, err
}

// readHead returns the SHA-256 of the head, too, which every frame is bound to.
func readHead(r io.Reader) (Info, metadata.Sum, error) {
	base := make([]byte, headBase)
	if _, err := io.ReadFull(r, base); err != nil {
		return Info{}, metadata.Sum{}, fmt.Errorf("backup: %w", cut(err, ErrNoBackup))
	}
	if string(base[:len(magic)]) != magic {
		return Info{}, metadata.Sum{}, fmt.Errorf("backup: %w", ErrNoBackup)
	}
	if f := binary.LittleEndian.Uint32(base[len(magic):]); f != format {
		return Info{}, metadata.Sum{}, fmt.Errorf("backup: %w (format %d)", ErrNewer, f)
	}
	n := binary.LittleEndian.Uint32(base[len(magic)+4:])
	if n > maxHeadBytes {
		return Info{}, metadata.Sum{}, fmt.Errorf("backup: %w (head of %d bytes)", ErrDamaged, n)
	}
	rest := make([]byte, int(n)+sha256.Size)
	if _, err := io.ReadFull(r, rest); err != nil {
		return Info{}, metadata.Sum{}, fmt.Errorf("backup: head: %w", cut(err, ErrTruncated))
	}
	message := rest[:n]
	if sha256.Sum256(slices.Concat(base, message)) != [sha256.Size]byte(rest[n:]) {
		return Info{}, metadata.Sum{}, fmt.Errorf("backup: %w (head)", ErrDamaged)
	}
	i, err := parseHead(message)
	if err != nil {
		return Info{}, metadata.Sum{}, fmt.Errorf("backup: head: %w", err)
	}
	return i, sha256.Sum256(slices.Concat(base, rest)), nil
}

// cut turns the end of the file into what it means.
func cut(err, means error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return means
	}
	return err
}

// parseHead ignores fields that it does not know: what must be understood
// raises the format.
func parseHead(b []byte) (i Info, err error) {
	err = fields(b, func(num protowire.Number, v uint64, text []byte) error {
		switch num {
		case fieldID:
			return fixed(i.ID[:], text)
		case fieldCluster:
			return fixed(i.Cluster[:], text)
		case fieldCreated:
			i.Created = time.Unix(int64(v), 0).UTC()
		case fieldStoreFormat:
			i.StoreFormat = v
		case fieldCommandVersion:
			i.CommandVersion = v
		case fieldKey:
			i.Sealed = true
			return fixed(i.Key[:], text)
		case fieldWrapped:
			i.wrapped = bytes.Clone(text)
		}
		return nil
	})
	switch {
	case err != nil:
		return Info{}, err
	case i.StoreFormat > replica.StoreFormat:
		return Info{}, fmt.Errorf("%w (store format %d)", ErrNewer, i.StoreFormat)
	case i.CommandVersion > metadata.LatestVersion:
		return Info{}, fmt.Errorf("%w (command version %d)", ErrNewer, i.CommandVersion)
	}
	return i, nil
}

// appendTotals appends the message of the last frame.
func appendTotals(b []byte, t *Totals) []byte {
	b = appendUint(b, 1, t.Groups)
	b = appendUint(b, 2, t.Pieces)
	b = appendUint(b, 3, t.Rows)
	return appendUint(b, 4, t.Bytes)
}

func parseTotals(b []byte) (t Totals, err error) {
	return t, fields(b, func(num protowire.Number, v uint64, _ []byte) error {
		switch num {
		case 1:
			t.Groups = v
		case 2:
			t.Pieces = v
		case 3:
			t.Rows = v
		case 4:
			t.Bytes = v
		}
		return nil
	})
}

func appendUint(b []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func appendBytes(b []byte, num protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
}

// fields calls f for each field of a message: with its number and value or
// text.
func fields(b []byte, f func(num protowire.Number, v uint64, text []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("%w: bad tag", ErrDamaged)
		}
		b = b[n:]
		var v uint64
		var text []byte
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			text, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return fmt.Errorf("%w: field %d is cut short", ErrDamaged, num)
		}
		b = b[n:]
		if err := f(num, v, text); err != nil {
			return err
		}
	}
	return nil
}

func fixed(into, text []byte) error {
	if len(text) != len(into) {
		return fmt.Errorf("%w: an id of %d bytes", ErrDamaged, len(text))
	}
	copy(into, text)
	return nil
}
