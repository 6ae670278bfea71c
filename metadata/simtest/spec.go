package simtest

import (
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/ruche-storage/ruche/metadata"
)

// Never is when an operation returns whose outcome nobody knows: it may be
// carried out at any time after it was called, or not at all.
const Never = math.MaxInt64

// Input is what a client asked about one key.
type Input struct {
	Bucket metadata.BucketRef
	Key    string
	// Command is what was to be done, nil for a read. Deletes name Key alone.
	Command *metadata.Command
	// Upload is whose parts were read; the zero id for reads of the object.
	Upload metadata.UploadID
}

// Output is what the client was told.
type Output struct {
	// Result answers Command. Nil means that nobody knows.
	Result *metadata.Result
	// ETag and Order are of the current version that was read, "" and 0 if
	// there is none.
	ETag  string
	Order uint64
	// Parts are of the upload that was read, in order of number; nil if it is
	// not in progress.
	Parts []metadata.PartID
}

// A History is what clients have seen. The zero value is empty. Times are of
// any clock that all clients share.
type History struct {
	ops []porcupine.Operation
}

// Len returns the number of operations on single keys.
func (h *History) Len() int { return len(h.ops) }

func (h *History) add(client int, call, ret int64, in Input, out Output) {
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: ret})
}

// Did adds a command on objects, which was called and has returned. A nil
// result means that nobody knows whether it was carried out, and ret does not
// count. Commands that were refused because of their epoch or settings are
// not added, nor are other kinds.
func (h *History) Did(client int, call, ret int64, c *metadata.Command, res *metadata.Result) {
	if res == nil {
		ret = Never
	} else if k := res.Rejected; k == metadata.ErrFencedEpoch || k == metadata.ErrStaleSettings || k == metadata.ErrNoSuchBucket {
		return
	}
	ref := metadata.BucketRef{Group: c.Group, ID: BucketOf(c)}
	if ref.ID == (metadata.BucketID{}) {
		return
	}
	if c.Delete == nil {
		h.add(client, call, ret, Input{Bucket: ref, Key: keyOf(c), Command: c}, Output{Result: res})
		return
	}
	for i, k := range c.Delete.Keys {
		one := *c
		one.Delete = &metadata.DeleteVersions{Bucket: ref.ID, Keys: []metadata.DeleteKey{k}}
		out := Output{}
		if res != nil {
			out.Result = &metadata.Result{Order: res.Order, Rejected: res.Rejected, Deleted: res.Deleted[i : i+1]}
		}
		h.add(client, call, ret, Input{Bucket: ref, Key: k.Key, Command: &one}, out)
	}
}

func keyOf(c *metadata.Command) string {
	switch c.Kind {
	case metadata.KindCommitVersion:
		return c.CommitVersion.Key
	case metadata.KindCreateUpload:
		return c.CreateUpload.Upload.Key
	case metadata.KindCommitPart:
		return c.CommitPart.Key
	case metadata.KindComplete:
		return c.Complete.Key
	}
	return c.Abort.Key
}

// Read adds a read of the current version, nil for none.
func (h *History) Read(client int, call, ret int64, b metadata.BucketRef, key string, v *metadata.Version) {
	out := Output{}
	if v != nil {
		out.ETag, out.Order = v.ETag, v.Order
	}
	h.add(client, call, ret, Input{Bucket: b, Key: key}, out)
}

// ReadParts adds a read of the parts of an upload; nil if it is not in
// progress.
func (h *History) ReadParts(client int, call, ret int64, b metadata.BucketRef, key string, u metadata.UploadID, parts []metadata.PartID) {
	h.add(client, call, ret, Input{Bucket: b, Key: key, Upload: u}, Output{Parts: parts})
}

// Listed adds a page of a listing: it is a read of every key that the page
// could have named, present or not. Keys are all there can be; the page covers
// those behind after up to last, or to the end if last is "".
func (h *History) Listed(client int, call, ret int64, b metadata.BucketRef, page []metadata.KeyVersion, keys []string, after, last string) {
	for _, key := range keys {
		if key <= after || last != "" && key > last {
			continue
		}
		var v *metadata.Version
		if i := slices.IndexFunc(page, func(k metadata.KeyVersion) bool { return k.Key == key }); i >= 0 {
			v = &page[i].Version
		}
		h.Read(client, call, ret, b, key, v)
	}
}

// Check looks for an order of the operations that explains all answers, key by
// key, for at most the given time a key. It returns an error that names the
// first key that has none, or that was not decided in time.
func (h *History) Check(timeout time.Duration) error {
	model := Spec()
	for _, ops := range model.Partition(h.ops) {
		if res := porcupine.CheckOperationsTimeout(model, ops, timeout); res != porcupine.Ok {
			in := ops[0].Input.(Input)
			return fmt.Errorf("simtest: key %s of group %d: %d operations: %s\n%s", in.Key, in.Bucket.Group, len(ops), res, describe(ops))
		}
	}
	return nil
}

func describe(ops []porcupine.Operation) string {
	var out strings.Builder
	for _, o := range ops {
		ret := fmt.Sprint(o.Return)
		if o.Return == Never {
			ret = "?"
		}
		fmt.Fprintf(&out, "  [%d, %s] client %d: %s\n", o.Call, ret, o.ClientId, describeOperation(o.Input, o.Output))
	}
	return out.String()
}

// spec is what one key may hold. States are never changed.
type spec struct {
	b     *bucket
	order uint64 // highest that was answered
	sum   string // equal states have equal sums
}

// Spec returns the sequential specification of one key, and how a history is
// taken apart into keys.
func Spec() porcupine.Model {
	return porcupine.Model{
		Partition: partition,
		Init: func() any {
			s := &spec{b: newBucket(metadata.Settings{})}
			s.sum = s.describe()
			return s
		},
		Step: func(state, in, out any) (bool, any) {
			s, ok := state.(*spec).step(in.(Input), out.(Output))
			return ok, s
		},
		Equal: func(x, y any) bool { return x.(*spec).sum == y.(*spec).sum },
		Hash: func(x any) uint64 {
			h := fnv.New64a()
			h.Write([]byte(x.(*spec).sum))
			return h.Sum64()
		},
		DescribeOperation: describeOperation,
		DescribeState:     func(x any) string { return x.(*spec).sum },
	}
}

func partition(all []porcupine.Operation) [][]porcupine.Operation {
	keys := make(map[string][]porcupine.Operation)
	for _, o := range all {
		in := o.Input.(Input)
		name := at(in.Bucket, in.Key)
		keys[name] = append(keys[name], o)
	}
	var parts [][]porcupine.Operation
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		parts = append(parts, keys[name])
	}
	return parts
}

// step reports whether in could be answered by out in state s, and the state
// after it.
func (s *spec) step(in Input, out Output) (*spec, bool) {
	if in.Command == nil {
		return s, s.reads(in, out)
	}
	if out.Result != nil && out.Result.Rejected == nil && out.Result.Order != 0 && out.Result.Order <= s.order {
		return s, false // a group's orders rise
	}
	next := &spec{b: s.b.clone(), order: s.order}
	order := uint64(0)
	if out.Result != nil {
		order = out.Result.Order
	}
	res := next.b.do(in.Command, &effects{order: order, last: order})
	if res.Rejected == nil {
		next.order = max(next.order, order)
	}
	next.sum = next.describe()
	return next, out.Result == nil || same(res, out.Result)
}

// same compares answers, but for what the whole command decided.
func same(x, y *metadata.Result) bool {
	etag := func(v *metadata.Version) string {
		if v == nil {
			return ""
		}
		return v.ETag
	}
	return x.Rejected == y.Rejected && slices.Equal(x.Deleted, y.Deleted) &&
		(x.Deleted != nil || x.Replaced == y.Replaced) && etag(x.Version) == etag(y.Version)
}

// reads reports whether a read could return out.
func (s *spec) reads(in Input, out Output) bool {
	if in.Upload != (metadata.UploadID{}) {
		u := s.b.find(in.Upload, in.Key)
		if u == nil || out.Parts == nil {
			return u == nil && out.Parts == nil
		}
		return slices.EqualFunc(u.parts, out.Parts, func(p metadata.Part, id metadata.PartID) bool { return p.ID == id })
	}
	o := s.b.objects[in.Key]
	if o == nil || out.ETag == "" {
		return o == nil && out.ETag == ""
	}
	v := &o.version
	return v.ETag == out.ETag && (v.Order == 0 || out.Order == 0 || v.Order == out.Order)
}

// describe returns all that later answers depend on.
func (s *spec) describe() string {
	var out strings.Builder
	for _, o := range s.b.objects {
		fmt.Fprintf(&out, "%s (%d)", o.version.ETag, o.version.Order)
	}
	for _, id := range slices.SortedFunc(maps.Keys(s.b.uploads), func(x, y metadata.UploadID) int { return strings.Compare(string(x[:]), string(y[:])) }) {
		fmt.Fprintf(&out, " upload %x:", id[:3])
		for _, p := range s.b.uploads[id].parts {
			fmt.Fprintf(&out, " %x", p.ID[:3])
		}
	}
	fmt.Fprintf(&out, " %d completed, order %d", len(s.b.completed), s.order)
	for _, id := range slices.SortedFunc(maps.Keys(s.b.completed), func(x, y metadata.UploadID) int { return strings.Compare(string(x[:]), string(y[:])) }) {
		fmt.Fprintf(&out, " %x", id[:3])
	}
	return out.String()
}

func describeOperation(input, output any) string {
	in, out := input.(Input), output.(Output)
	switch {
	case in.Command == nil && in.Upload != (metadata.UploadID{}):
		return fmt.Sprintf("parts of %x -> %x", in.Upload[:3], out.Parts)
	case in.Command == nil:
		return fmt.Sprintf("read -> %q (%d)", out.ETag, out.Order)
	}
	answer := "?"
	if r := out.Result; r != nil {
		answer = fmt.Sprintf("order %d, replaced %v, deleted %v, rejected %v", r.Order, r.Replaced, r.Deleted, r.Rejected)
	}
	return fmt.Sprintf("%s -> %s", describeCommand(in.Command), answer)
}

func describeCommand(c *metadata.Command) string {
	switch c.Kind {
	case metadata.KindCommitVersion:
		return fmt.Sprintf("put %s %+v", c.CommitVersion.Version.ETag, c.CommitVersion.Conditions)
	case metadata.KindDeleteVersions:
		return fmt.Sprintf("delete %+v", c.Delete.Keys[0].Conditions)
	case metadata.KindCreateUpload:
		return fmt.Sprintf("begin upload %x", c.CreateUpload.Upload.ID[:3])
	case metadata.KindCommitPart:
		return fmt.Sprintf("part %d %x of %x", c.CommitPart.Part.Number, c.CommitPart.Part.ID[:3], c.CommitPart.Upload[:3])
	case metadata.KindComplete:
		return fmt.Sprintf("complete %x as %s of %d parts %+v", c.Complete.Upload[:3], c.Complete.Version.ETag, len(c.Complete.Parts), c.Complete.Conditions)
	}
	return fmt.Sprintf("abort %x", c.Abort.Upload[:3])
}
