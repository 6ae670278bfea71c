package manifest

import (
	"encoding/binary"
	"fmt"

	"github.com/ruche-storage/ruche/metadata"
)

// The payloads of account and bucket records, which package gateway/object
// writes and describes.
const (
	recordVersion = 1

	bucketLive    = 1
	bucketDeleted = 2
)

// BucketRecord is what a bucket record says.
type BucketRecord struct {
	Deleted bool // then only the ids of Row.ID and Row.Owner are set
	// Row is live and has no Name and no Order.
	Row metadata.Bucket
	// Name is sealed by the bucket's name key if the bucket has a key, else as
	// it is.
	Name []byte
}

// ParseBucket reads the payload of a bucket record. The error wraps
// [ErrMalformed] or [ErrNewer].
func ParseBucket(payload []byte) (*BucketRecord, error) {
	r := recordReader{b: payload}
	if v := r.take(1); r.err == nil && v[0] != recordVersion {
		return nil, fmt.Errorf("%w: bucket record of version %d", ErrNewer, v[0])
	}
	out := &BucketRecord{Row: metadata.Bucket{State: metadata.BucketLive}}
	state := r.take(1)
	copy(out.Row.ID[:], r.take(16))
	copy(out.Row.Owner[:], r.take(16))
	copy(out.Row.Key[:], r.take(16))
	out.Row.Group = r.number()
	out.Row.WrappedKey = string(r.text())
	out.Name = r.text()
	out.Row.Region = string(r.text())
	if err := r.end("bucket"); err != nil {
		return nil, err
	}
	switch state[0] {
	case bucketLive:
		if out.Row.Group < 1 || out.Row.Group > metadata.DataGroups {
			return nil, malformed("bucket record with group %d", out.Row.Group)
		}
	case bucketDeleted:
		out.Deleted = true
	default:
		return nil, fmt.Errorf("%w: bucket record of state %d", ErrNewer, state[0])
	}
	if out.Row.ID == (metadata.BucketID{}) {
		return nil, malformed("bucket record without id")
	}
	return out, nil
}

// ParseAccount reads the payload of an account record. The error wraps
// [ErrMalformed] or [ErrNewer].
func ParseAccount(payload []byte) (*metadata.Account, error) {
	r := recordReader{b: payload}
	if v := r.take(1); r.err == nil && v[0] != recordVersion {
		return nil, fmt.Errorf("%w: account record of version %d", ErrNewer, v[0])
	}
	var a metadata.Account
	copy(a.ID[:], r.take(16))
	copy(a.Key[:], r.take(16))
	copy(a.MasterKey[:], r.take(16))
	a.WrappedKey = string(r.text())
	a.Canonical = string(r.text())
	a.Name = string(r.text())
	if err := r.end("account"); err != nil {
		return nil, err
	}
	if a.ID == (metadata.AccountID{}) {
		return nil, malformed("account record without id")
	}
	return &a, nil
}

// recordReader takes the fields of a record one by one.
type recordReader struct {
	b   []byte
	err error
}

func (r *recordReader) take(n int) []byte {
	if r.err == nil && (n < 0 || n > len(r.b)) {
		r.err = malformed("cut short")
	}
	if r.err != nil {
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *recordReader) number() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *recordReader) text() []byte {
	n := r.number()
	if uint64(n) > MaxBytes {
		n = MaxBytes + 1
	}
	return r.take(int(n))
}

func (r *recordReader) end(what string) error {
	if r.err == nil && len(r.b) > 0 {
		r.err = malformed("%d bytes too many", len(r.b))
	}
	if r.err != nil {
		return fmt.Errorf("%s record: %w", what, r.err)
	}
	return nil
}
