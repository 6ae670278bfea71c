package simtest

import (
	"cmp"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
)

// A Value is what a key may hold. Values are compared by identity: two that
// were written have different bytes. A nil *Value means that there is nothing.
type Value struct {
	Bytes []byte
	ETag  string // without quotes
}

// NewValue returns n bytes that depend on seed, as a plain PUT stores them.
func NewValue(seed uint64, n int) *Value {
	b := make([]byte, n)
	src := rand.NewPCG(seed, uint64(n))
	for i := 0; i < n; i += 8 {
		word := src.Uint64()
		for j := i; j < min(n, i+8); j++ {
			b[j], word = byte(word), word>>8
		}
	}
	return Plain(b)
}

// Plain returns b as a plain PUT stores it.
func Plain(b []byte) *Value {
	sum := md5.Sum(b)
	return &Value{Bytes: b, ETag: hex.EncodeToString(sum[:])}
}

// Join returns what an upload of these parts becomes.
func Join(parts []*Value) *Value {
	var v Value
	var sums []byte
	for _, p := range parts {
		v.Bytes = append(v.Bytes, p.Bytes...)
		sum, err := hex.DecodeString(p.ETag)
		if err != nil {
			panic(fmt.Sprintf("simtest: part with ETag %q", p.ETag)) // parts are plain values
		}
		sums = append(sums, sum...)
	}
	sum := md5.Sum(sums)
	v.ETag = fmt.Sprintf("%s-%d", hex.EncodeToString(sum[:]), len(parts))
	return &v
}

// A Model is what clients know of a store: which value each of its names may
// have. Names are keys of objects or whatever else has one value at a time.
//
// A write may take effect at any time from [Model.Begin] to its end. Of writes
// that overlap nobody knows which came last; one that never ended may still
// come. All methods may be called concurrently.
type Model struct {
	mu    sync.Mutex // guards everything
	now   int        // counts beginnings and ends
	names map[string][]*write
}

// write is one write of a name.
type write struct {
	begin, end int      // end is 0 while it runs
	values     []*Value // one of them was or will be written
}

// A Write is one write under way. It is ended once.
type Write struct {
	m    *Model
	name string
	id   int // when it began: unique
}

// NewModel returns the model of an empty store.
func NewModel() *Model { return &Model{names: make(map[string][]*write)} }

// tick needs mu.
func (m *Model) tick() int {
	m.now++
	return m.now
}

// Now returns a time, for the reads that begin with it.
func (m *Model) Now() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tick()
}

// Begin says that somebody writes one of values.
func (m *Model) Begin(name string, values ...*Value) Write {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := &write{begin: m.tick(), values: values}
	m.names[name] = append(m.names[name], w)
	return Write{m: m, name: name, id: w.begin}
}

func (w Write) find() *write {
	i := slices.IndexFunc(w.m.names[w.name], func(o *write) bool { return o.begin == w.id })
	if i < 0 {
		return nil // forgotten: whoever began it was cut off
	}
	return w.m.names[w.name][i]
}

// Done says that a write was acknowledged, and which value it was of.
func (w Write) Done(v *Value) {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	if o := w.find(); o != nil {
		o.end, o.values = w.m.tick(), []*Value{v}
	}
}

// Failed says that a write did not happen and never will.
func (w Write) Failed() {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	w.m.names[w.name] = slices.DeleteFunc(w.m.names[w.name], func(o *write) bool { return o.begin == w.id })
}

// Possible returns what a read of a name may have found that began at since
// and ends now.
func (m *Model) Possible(name string, since int) []*Value { return m.possible(name, since, 0) }

// PossibleBeside is Possible for what a write itself may have found before it
// took effect.
func (w Write) PossibleBeside() []*Value { return w.m.possible(w.name, w.id, w.id) }

func (m *Model) possible(name string, since, without int) (values []*Value) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.names[name]
	covered := 0 // writes that ended before this one began cannot be seen
	for _, w := range all {
		if w.begin != without && w.end != 0 && w.end < since {
			covered = max(covered, w.begin)
		}
	}
	if covered == 0 {
		values = append(values, nil) // nobody has surely written
	}
	for _, w := range all {
		if w.begin != without && (w.end == 0 || w.end >= covered) {
			values = append(values, w.values...)
		}
	}
	return values
}

// Settle says that a name was read while nobody writes, and by what was under
// way no more: it holds v until the next write. It fails if it cannot hold v.
func (m *Model) Settle(name string, v *Value) error {
	if !slices.Contains(m.Possible(name, m.Now()), v) {
		return fmt.Errorf("%s is %s, possible is %s", name, Describe(v), Describe(m.Possible(name, m.Now())...))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.names[name] = nil
	if v != nil {
		m.names[name] = []*write{{begin: m.tick(), end: m.tick(), values: []*Value{v}}}
	} else {
		delete(m.names, name)
	}
	return nil
}

// Names returns all names that may hold something, in order.
func (m *Model) Names() (names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.names {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Running returns how many writes of a name have not ended.
func (m *Model) Running(name string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.names[name] {
		if w.end == 0 {
			n++
		}
	}
	return n
}

// Clone returns a copy of what is known now. Writes under way never end in it.
// Nothing begins or ends while at is called, at the moment of the copy; at may
// be nil.
func (m *Model) Clone(at func()) *Model {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at != nil {
		at()
	}
	c := &Model{now: m.now, names: make(map[string][]*write, len(m.names))}
	for name, all := range m.names {
		for _, w := range all {
			own := *w
			c.names[name] = append(c.names[name], &own)
		}
	}
	return c
}

// Match returns the value of a name that has these bytes and this ETag, among
// those that a read may have found that began at since and ends now.
func (m *Model) Match(name string, since int, b []byte, etag string) (*Value, error) {
	possible := m.Possible(name, since)
	for _, v := range possible {
		if v != nil && v.ETag == etag && slices.Equal(v.Bytes, b) {
			return v, nil
		}
	}
	for _, v := range possible {
		if v != nil && v.ETag == etag {
			return nil, fmt.Errorf("%s: %d wrong bytes under the ETag of %s", name, len(b), Describe(v))
		}
	}
	return nil, fmt.Errorf("%s holds %d bytes with ETag %s, possible is %s", name, len(b), etag, Describe(possible...))
}

// Describe words values for people.
func Describe(values ...*Value) string {
	var out []string
	for _, v := range values {
		if v == nil {
			out = append(out, "nothing")
		} else {
			out = append(out, fmt.Sprintf("%d bytes (%.6s)", len(v.Bytes), v.ETag))
		}
	}
	slices.SortFunc(out, cmp.Compare)
	return fmt.Sprint(slices.Compact(out))
}
