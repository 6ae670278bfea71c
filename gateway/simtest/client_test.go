package simtest

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata"
)

// Names of the model other than keys begin with a byte that no key here has.
const (
	uploadMark = "\x00upload " // an upload that is open: key, id
	partMark   = "\x00part "   // a part of it: id, number
)

// openUpload is the value of the name of an upload.
var openUpload = &Value{ETag: "open upload"}

func uploadName(key string, id metadata.UploadID) string { return uploadMark + key + " " + id.String() }

func partName(id metadata.UploadID, number int) string {
	return fmt.Sprintf("%s%s %05d", partMark, id, number)
}

// known is what clients have in common besides the model.
type known struct {
	*Model
	keys  []string
	seeds *atomic.Uint64 // of the last value

	racing atomic.Bool // a client is at the contested key, which no other touches

	mu      sync.Mutex // guards what follows
	uploads []*upload
	begun   map[string]int // uploads of a key that were begun, and of which no id is known
	told    func()         // called after every answer
}

// upload is one that a client knows.
type upload struct {
	key  string
	id   metadata.UploadID
	busy bool // a client is at it
}

func newKnown(keys int) *known {
	k := &known{Model: NewModel(), seeds: new(atomic.Uint64), begun: make(map[string]int), told: func() {}}
	for i := range keys {
		k.keys = append(k.keys, fmt.Sprintf("key/%c", 'a'+i))
	}
	return k
}

// contested is a key that is only written by two at once, under the same
// condition.
const contested = "key/contested"

// all returns all keys.
func (k *known) all() []string { return append(slices.Clone(k.keys), contested) }

// clone returns what is known at a cut, which is made by at: nobody is at
// anything any more.
func (k *known) clone(at func()) *known {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := &known{Model: k.Model.Clone(at), keys: k.keys, seeds: k.seeds, begun: make(map[string]int), told: func() {}}
	for key, n := range k.begun {
		c.begun[key] = n
	}
	for _, u := range k.uploads {
		c.uploads = append(c.uploads, &upload{key: u.key, id: u.id})
	}
	return c
}

// value makes a value that was never written before.
func (k *known) value(n int) *Value { return NewValue(k.seeds.Add(1), n) }

// take gives an upload to one client.
func (k *known) take(rng *rand.Rand) *upload {
	k.mu.Lock()
	defer k.mu.Unlock()
	free := slices.DeleteFunc(slices.Clone(k.uploads), func(u *upload) bool { return u.busy })
	if len(free) == 0 {
		return nil
	}
	u := free[rng.IntN(len(free))]
	u.busy = true
	return u
}

func (k *known) giveBack(u *upload) {
	k.mu.Lock()
	defer k.mu.Unlock()
	u.busy = false
}

func (k *known) forget(u *upload) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.uploads = slices.DeleteFunc(k.uploads, func(o *upload) bool { return o == u })
}

// client does random operations and holds the answers against the model.
type client struct {
	s     *store
	k     *known
	rng   *rand.Rand
	sizes []int
	slow  time.Duration // how long slow bodies take, 0 if there are none
	// lenient clients bear answers that say that drives or metadata fail; what
	// was under way then is unknown.
	lenient bool
	// patient clients open objects and read them later more often.
	patient bool
}

// simSizes are lengths at which the way of a body changes: nothing, inline,
// small shards, cells of a stripe, more stripes.
var simSizes = []int{0, 1, 700, 1 << 10, 1<<10 + 1, 5000, 20_000, 65_519, 65_520, 65_521, 2*65_520 + 1, 200_000}

// size is mostly small.
func (c *client) size() int {
	if c.rng.IntN(8) == 0 {
		return c.sizes[c.rng.IntN(len(c.sizes))]
	}
	return c.sizes[c.rng.IntN(min(6, len(c.sizes)))]
}

func (c *client) key() string { return c.k.keys[c.rng.IntN(len(c.k.keys))] }

// step does one operation.
func (c *client) step(ctx context.Context) error {
	progress.Add(1)
	if c.patient && c.rng.IntN(5) == 0 {
		return c.linger(ctx)
	}
	switch n := c.rng.IntN(100); {
	case n < 32:
		return c.put(ctx)
	case n < 35:
		return c.race(ctx)
	case n < 48:
		return c.remove(ctx)
	case n < 58:
		return c.read(ctx, c.key())
	case n < 66:
		return c.copy(ctx)
	case n < 74:
		return c.create(ctx)
	case n < 84:
		return c.part(ctx)
	case n < 90:
		return c.complete(ctx)
	case n < 93:
		return c.abort(ctx)
	case n < 95:
		return c.linger(ctx)
	default:
		return c.list(ctx)
	}
}

// end tells the model how a write has ended. It fails with answers that a
// store must not give here.
func (c *client) end(w Write, v *Value, err error) error {
	defer c.k.told()
	switch {
	case err == nil:
		w.Done(v)
		return nil
	case refused(err):
		w.Failed()
		return nil
	case c.lenient:
		return nil // it may have happened, or happen still
	}
	return err
}

// refused reports whether an operation has surely not happened, as S3 has it.
func refused(err error) bool {
	for _, no := range []error{metadata.ErrPreconditionFailed, metadata.ErrNoSuchUpload, metadata.ErrNoSuchKey, metadata.ErrInvalidPart, object.ErrEntityTooSmall} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

func body(b []byte) object.Body {
	return object.Body{Reader: bytes.NewReader(slices.Clone(b)), Bytes: int64(len(b))}
}

// put writes a key, one time in four under a condition.
func (c *client) put(ctx context.Context) error {
	key, v := c.key(), c.k.value(c.size())
	req := &object.PutRequest{Bucket: bucketName, Key: key, Body: body(v.Bytes)}
	if c.slow > 0 && c.rng.IntN(25) == 0 {
		req.Body.Reader = &slowReader{r: req.Body.Reader, pause: c.slow / 4, piece: max(1, len(v.Bytes)/4)}
	}
	var wanted *Value
	conditional := c.rng.IntN(4) == 0
	w := c.k.Begin(key, v)
	if conditional {
		if beside := w.PossibleBeside(); c.rng.IntN(2) == 0 && beside[0] != nil {
			wanted = beside[0]
			req.Conditions.IfMatch = wanted.ETag
		} else {
			req.Conditions.IfNoneMatch = true
		}
	}
	res, err := c.s.Put(ctx, req)
	if conditional {
		if err := c.judge(w, wanted, err); err != nil {
			return err
		}
	}
	if err == nil && res.ETag != v.ETag {
		return fmt.Errorf("%s has ETag %s, not %s", key, res.ETag, v.ETag)
	}
	return c.end(w, v, err)
}

// race writes the contested key twice at once, under the same condition, which
// at most one of both may find to hold.
func (c *client) race(ctx context.Context) error {
	if !c.k.racing.CompareAndSwap(false, true) {
		return nil
	}
	defer c.k.racing.Store(false)
	if c.rng.IntN(3) == 0 {
		if err := c.removeKey(ctx, contested); err != nil {
			return err
		}
	}
	possible := c.k.Possible(contested, c.k.Now())
	if len(possible) != 1 {
		return nil // a write whose end is unknown
	}
	type answer struct {
		w   Write
		v   *Value
		err error
	}
	answers := make(chan answer, 2)
	for range cap(answers) {
		a := answer{v: c.k.value(8 + c.size())} // no two have one ETag
		req := &object.PutRequest{Bucket: bucketName, Key: contested, Body: body(a.v.Bytes)}
		if possible[0] != nil {
			req.Conditions.IfMatch = possible[0].ETag
		} else {
			req.Conditions.IfNoneMatch = true
		}
		a.w = c.k.Begin(contested, a.v)
		go func() {
			_, a.err = c.s.Put(ctx, req)
			answers <- a
		}()
	}
	var errs []error
	done, no := 0, 0
	for range cap(answers) {
		a := <-answers
		if a.err == nil {
			done++
		} else if refused(a.err) {
			no++
		}
		errs = append(errs, c.end(a.w, a.v, a.err))
	}
	if done == 2 || no == 2 {
		errs = append(errs, fmt.Errorf("the condition for %s held for %d of two writes at once", Describe(possible...), done))
	}
	return errors.Join(errs...)
}

// judge fails if a condition was answered as it cannot have been.
func (c *client) judge(w Write, wanted *Value, err error) error {
	beside := w.PossibleBeside()
	switch {
	case err == nil && !slices.ContainsFunc(beside, func(v *Value) bool { return same(v, wanted) }):
		return fmt.Errorf("%s: condition for %s held, possible was %s", w.name, Describe(wanted), Describe(beside...))
	case refused(err) && !slices.ContainsFunc(beside, func(v *Value) bool { return !same(v, wanted) }):
		return fmt.Errorf("%s: condition for %s did not hold, possible was only that", w.name, Describe(wanted))
	}
	return nil
}

// same reports whether a condition cannot tell two values apart.
func same(v, w *Value) bool { return v == w || v != nil && w != nil && v.ETag == w.ETag }

func (c *client) remove(ctx context.Context) error {
	key := c.key()
	w := c.k.Begin(key, nil)
	res, err := c.s.Delete(ctx, bucketName, []object.DeleteRequest{{Key: key}})
	if err == nil {
		err = res[0].Err
	}
	return c.end(w, nil, err)
}

// read compares a key with what it may hold.
func (c *client) read(ctx context.Context, key string) error {
	since := c.k.Now()
	b, info, err := c.s.read(ctx, key)
	switch {
	case errors.Is(err, metadata.ErrNoSuchKey):
		if possible := c.k.Possible(key, since); !slices.Contains(possible, nil) {
			return fmt.Errorf("%s is gone, possible is %s", key, Describe(possible...))
		}
		return nil
	case err != nil && c.lenient:
		return nil
	case err != nil:
		return fmt.Errorf("read %s: %w", key, err)
	}
	_, err = c.k.Match(key, since, b, info.ETag)
	return err
}

const lingerBytes = 700_000

// linger opens an object and reads it after a while: whatever becomes of the key
// meanwhile, its bytes stay.
func (c *client) linger(ctx context.Context) error {
	key := c.key()
	long := c.rng.IntN(2) == 0
	if long { // so that not all of it is read when it is opened
		if err := c.putSized(ctx, key, lingerBytes); err != nil {
			return err
		}
	}
	since := c.k.Now()
	o, err := c.s.Get(ctx, &object.GetRequest{Bucket: bucketName, Key: key})
	if errors.Is(err, metadata.ErrNoSuchKey) || err != nil && c.lenient {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", key, err)
	}
	defer o.Close()
	possible := c.k.Possible(key, since)
	if long {
		if err := c.putSized(ctx, key, c.size()); err != nil {
			return err
		}
	}
	time.Sleep(c.slow)
	var got bytes.Buffer
	if _, err := o.WriteTo(&got); err != nil {
		if c.lenient {
			return nil
		}
		return fmt.Errorf("read %s %v after it was opened: %w", key, c.slow, err)
	}
	for _, v := range possible {
		if v != nil && v.ETag == o.ETag && bytes.Equal(v.Bytes, got.Bytes()) {
			return nil
		}
	}
	return fmt.Errorf("%s, opened %v before, has %d bytes with ETag %s, possible was %s", key, c.slow, got.Len(), o.ETag, Describe(possible...))
}

// copy copies a key to another one, or over itself with other attributes. What
// it copies is one of what its source may hold.
func (c *client) copy(ctx context.Context) error {
	from, to := c.key(), c.key()
	plain := c.plain(c.k.Possible(from, c.k.Now()))
	w := c.k.Begin(to, plain...)
	since := w.id
	res, err := c.s.Copy(ctx, &object.CopyRequest{Source: object.CopySource{Bucket: bucketName, Key: from}, Bucket: bucketName, Key: to, ReplaceAttributes: true})
	if possible := c.k.Possible(from, since); errors.Is(err, metadata.ErrNoSuchKey) && !slices.Contains(possible, nil) {
		return fmt.Errorf("copy of %s: %w, possible was %s", from, err, Describe(possible...))
	}
	if err != nil {
		return c.end(w, nil, err)
	}
	// The source may have changed since: what was copied is known by its ETag.
	for _, v := range append(plain, c.plain(c.k.Possible(from, since))...) {
		if v.ETag == res.ETag {
			return c.end(w, v, nil)
		}
	}
	return fmt.Errorf("copy of %s has ETag %s, possible was %s", from, res.ETag, Describe(plain...))
}

// plain returns values as a copy stores them: in one part, or as they are.
func (c *client) plain(values []*Value) (out []*Value) {
	for _, v := range values {
		if v == nil {
			continue
		}
		out = append(out, v)
		if strings.Contains(v.ETag, "-") {
			out = append(out, Plain(v.Bytes))
		}
	}
	return out
}

// list compares all pages with what keys may hold.
func (c *client) list(ctx context.Context) error {
	since := c.k.Now()
	var entries []object.Entry
	for page := (&object.ListPage{Truncated: true}); page.Truncated; {
		var err error
		page, err = c.s.List(ctx, &object.ListRequest{Bucket: bucketName, After: page.Next, Limit: 1000})
		if err != nil {
			if c.lenient {
				return nil
			}
			return fmt.Errorf("list: %w", err)
		}
		entries = append(entries, page.Entries...)
	}
	listed := make(map[string]object.Entry)
	for i, e := range entries {
		if i > 0 && entries[i-1].Key >= e.Key {
			return fmt.Errorf("%s is listed behind %s", e.Key, entries[i-1].Key)
		}
		listed[e.Key] = e
	}
	for _, key := range c.k.all() {
		possible := c.k.Possible(key, since)
		e, ok := listed[key]
		delete(listed, key)
		if !slices.ContainsFunc(possible, func(v *Value) bool { return matches(v, e, ok) }) {
			return fmt.Errorf("%s is listed as %v %+v, possible is %s", key, ok, e, Describe(possible...))
		}
	}
	for key := range listed {
		return fmt.Errorf("%s is listed and was never written", key)
	}
	return nil
}

func matches(v *Value, e object.Entry, listed bool) bool {
	if v == nil || !listed {
		return v == nil && !listed
	}
	return e.ETag == v.ETag && e.Bytes == int64(len(v.Bytes))
}

// work does operations, with pauses in which the store does what it does by
// itself, until enough were done.
func (c *client) work(ctx context.Context, steps int, over func() bool, pause time.Duration) error {
	for range steps {
		if over() {
			return nil
		}
		if err := c.step(ctx); err != nil {
			return err
		}
		if pause > 0 && c.rng.IntN(3) == 0 {
			time.Sleep(time.Duration(c.rng.Int64N(int64(pause))))
		}
	}
	return nil
}

// slowReader yields bytes in pieces with pauses.
type slowReader struct {
	r     io.Reader
	piece int
	pause time.Duration
}

func (s *slowReader) Read(p []byte) (int, error) {
	time.Sleep(s.pause)
	return s.r.Read(p[:min(len(p), s.piece)])
}

// hexOf returns the first digits of an id, for messages.
func hexOf(b []byte) string { return hex.EncodeToString(b[:min(4, len(b))]) }
