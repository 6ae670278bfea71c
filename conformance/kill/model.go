package kill

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
)

// Errors of what a server holds after a restart. Each wraps nothing and is
// wrapped with the key and what was expected.
var (
	ErrLost   = errors.New("acknowledged object is lost")
	ErrBack   = errors.New("deleted object is back")
	ErrStale  = errors.New("overwritten content is back")
	ErrWrong  = errors.New("content was never written to this key")
	ErrListed = errors.New("listing differs from the objects")
)

// Value is the content of an object. The zero Value means that there is none.
type Value struct {
	ID     uint64 // of the bytes; never 0
	Size   int
	SHA256 string // in hexadecimal
}

// Absent reports whether the value stands for no object.
func (v Value) Absent() bool { return v.ID == 0 }

// NewValue returns a value and its bytes, which depend on id and size alone.
func NewValue(id uint64, size int) (Value, []byte) {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], id)
	data := make([]byte, size)
	rand.NewChaCha8(seed).Read(data)
	return Sum(id, data), data
}

// Sum returns the value of some bytes.
func Sum(id uint64, data []byte) Value {
	sum := sha256.Sum256(data)
	return Value{ID: id, Size: len(data), SHA256: hex.EncodeToString(sum[:])}
}

// register is the history of one key. Calls for a key come one after the other.
type register struct {
	settled Value   // what a read returns if no call is pending
	pending []Value // what calls without an answer may have made of it
	past    []Value // that have been replaced; for the words of errors alone
}

// Model is what must be true of the keys of a bucket. It is safe for
// concurrent use as long as each key has one writer at a time.
type Model struct {
	mu      sync.Mutex
	keys    map[string]*register
	touched map[string]bool // since the last call of Touched
}

// NewModel returns the model of an empty bucket.
func NewModel() *Model {
	return &Model{keys: make(map[string]*register), touched: make(map[string]bool)}
}

// Begin notes that a call is about to make v of key: to delete it if v is
// absent. Until [Model.Ack] it may or may not happen.
func (m *Model) Begin(key string, v Value) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.keys[key]
	if r == nil {
		r = new(register)
		m.keys[key] = r
	}
	r.pending = append(r.pending, v)
	m.touched[key] = true
}

// Ack notes that the call that was begun last for key has succeeded.
func (m *Model) Ack(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.keys[key]
	r.settle(r.pending[len(r.pending)-1])
}

// settle makes v the one value that reads may return.
func (r *register) settle(v Value) {
	for _, old := range append(r.pending, r.settled) {
		if old != v && !old.Absent() {
			r.past = append(r.past, old)
		}
	}
	r.settled, r.pending = v, nil
}

// Observe compares what a read of key found after a restart with what may be
// there, seen being the zero Value if nothing was there; its ID does not
// matter otherwise. What was found once is what must be there from then on.
func (m *Model) Observe(key string, seen Value) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.keys[key]
	if r == nil {
		if seen == (Value{}) {
			return nil
		}
		return fmt.Errorf("%s: %d bytes: %w", key, seen.Size, ErrWrong)
	}
	may := append([]Value{r.settled}, r.pending...)
	same := func(v Value) bool { return v.Size == seen.Size && v.SHA256 == seen.SHA256 }
	if i := slices.IndexFunc(may, same); i >= 0 {
		r.settle(may[i])
		return nil
	}
	var reason error
	switch {
	case seen == (Value{}):
		reason = ErrLost
	case slices.ContainsFunc(r.past, same) && !slices.ContainsFunc(may, func(v Value) bool { return !v.Absent() }):
		reason = ErrBack
	case slices.ContainsFunc(r.past, same):
		reason = ErrStale
	default:
		reason = ErrWrong
	}
	return fmt.Errorf("%s: found %v, allowed are %s: %w", key, seen, describe(may), reason)
}

// String says what matters of a value.
func (v Value) String() string {
	if v.SHA256 == "" {
		return "nothing"
	}
	return fmt.Sprintf("%d bytes %.8s", v.Size, v.SHA256)
}

func describe(list []Value) string {
	text := make([]string, len(list))
	for i, v := range list {
		text[i] = v.String()
	}
	return strings.Join(text, ", ")
}

// Touched returns the keys that calls were begun for since it was last called,
// in order.
func (m *Model) Touched() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	keys := make([]string, 0, len(m.touched))
	for key := range m.touched {
		keys = append(keys, key)
	}
	clear(m.touched)
	slices.Sort(keys)
	return keys
}

// Keys returns all keys that calls were ever begun for, in order.
func (m *Model) Keys() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	keys := make([]string, 0, len(m.keys))
	for key := range m.keys {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// Entry is what a listing or a HEAD says of an object.
type Entry struct {
	Key  string
	Size int64
	ETag string
}

// CompareListing compares a listing with the HEADs of the same objects, both
// in any order.
func CompareListing(listed, heads []Entry) error {
	var errs []error
	byKey := make(map[string]Entry, len(heads))
	for _, h := range heads {
		byKey[h.Key] = h
	}
	for _, l := range listed {
		h, found := byKey[l.Key]
		switch {
		case !found:
			errs = append(errs, fmt.Errorf("%s is listed (once too often) and has no HEAD: %w", l.Key, ErrListed))
		case h != l:
			errs = append(errs, fmt.Errorf("%s is listed as %+v, HEAD says %+v: %w", l.Key, l, h, ErrListed))
		}
		delete(byKey, l.Key)
	}
	for key := range byKey {
		errs = append(errs, fmt.Errorf("%s is not listed: %w", key, ErrListed))
	}
	return errors.Join(errs...)
}
