package state_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/state"
)

// alphabet has what makes listing hard: delimiters, bytes that are escaped or
// at the ends of the range, and letters around the delimiter.
var alphabet = []string{"a", "b", "/", "\x00", "\xff", "\x01", "-", "//"}

func randomKey(r *rand.Rand, most int) string {
	var b strings.Builder
	for range 1 + r.IntN(most) {
		b.WriteString(alphabet[r.IntN(len(alphabet))])
	}
	return b.String()
}

// item is one line of a listing: a version or upload, or a common prefix.
type item struct{ key, id, prefix string }

// naive lists items by looking at every one of them. Entries are in order.
func naive(entries []item, prefix, delimiter string, past func(item) bool, limit int) (page []item, truncated bool) {
	seen := make(map[string]bool)
	for _, e := range entries {
		if !strings.HasPrefix(e.key, prefix) || past(e) {
			continue
		}
		out := e
		if delimiter != "" {
			if before, _, ok := strings.Cut(e.key[len(prefix):], delimiter); ok {
				out = item{prefix: prefix + before + delimiter}
				if seen[out.prefix] {
					continue
				}
				seen[out.prefix] = true
			}
		}
		if len(page) == limit {
			return page, true
		}
		page = append(page, out)
	}
	return page, false
}

// under reports whether a listing that has gone past after, a key or a common
// prefix, has gone past key.
func under(prefix, delimiter, after, key string) bool {
	if delimiter != "" && strings.HasPrefix(after, prefix) {
		if before, rest, ok := strings.Cut(after[len(prefix):], delimiter); ok && rest == "" && prefix+before+delimiter == after {
			return key <= after || strings.HasPrefix(key, after)
		}
	}
	return key <= after
}

// newListed makes a store with a bucket for list tests.
func newListed(t *testing.T) (*script, *rand.Rand) {
	db := openDB(t)
	s := &script{t: t, db: db, machine: state.New(db), stamp: 1, epoch: 0, names: make(map[[16]byte]string)}
	s.apply(&metadata.Command{Kind: metadata.KindOpenBucket, Group: 1, Settle: &metadata.Settings{Bucket: ref.ID, Name: "b"}})
	// A second bucket whose id follows, to see that lists do not run over.
	other := ref.ID
	other[15]++
	s.apply(&metadata.Command{Kind: metadata.KindOpenBucket, Group: 1, Settle: &metadata.Settings{Bucket: other, Name: "c"}})
	s.putEmpty(other, "a/b")
	return s, rand.New(rand.NewPCG(7, 11))
}

func (s *script) putEmpty(b metadata.BucketID, key string) uint64 {
	p := &metadata.Part{Number: 1, ID: metadata.PartID{1}}
	return s.apply(&metadata.Command{Kind: metadata.KindCommitVersion, Group: 1, Settings: 1, CommitVersion: &metadata.CommitVersion{
		Bucket: b, Key: key, Version: metadata.Version{Null: true, Part: p}}}).Order
}

func TestListAgreesWithNaiveModel(t *testing.T) {
	t.Parallel()
	s, r := newListed(t)
	keys := make(map[string]bool)
	for range 400 {
		k := randomKey(r, 6)
		keys[k] = true
		s.putEmpty(ref.ID, k)
	}
	var entries []item
	for k := range keys {
		entries = append(entries, item{key: k})
	}
	slices.SortFunc(entries, func(a, b item) int { return strings.Compare(a.key, b.key) })
	for range 3000 {
		q := &metadata.ListQuery{Bucket: ref, Limit: 1 + r.IntN(12)}
		q.Prefix, q.Delimiter, q.After = maybe(r, randomKey(r, 2)), maybe(r, alphabet[r.IntN(len(alphabet))]), maybe(r, randomKey(r, 4))
		checkList(t, s.view(), q, entries)
	}
	// Whole listings page by page.
	for _, delimiter := range []string{"", "/", "//", "a", "\x00", "\xff"} {
		for _, prefix := range []string{"", "a", "/", "a/", "\xff"} {
			q := &metadata.ListQuery{Bucket: ref, Prefix: prefix, Delimiter: delimiter, Limit: 3}
			for {
				res := checkList(t, s.view(), q, entries)
				if !res.Truncated {
					break
				}
				if res.Next <= q.After {
					t.Fatalf("%+v: next is %q", q, res.Next)
				}
				q.After = res.Next
			}
		}
	}
}

func maybe(r *rand.Rand, s string) string {
	if r.IntN(2) == 0 {
		return ""
	}
	return s
}

func checkList(t *testing.T, v state.View, q *metadata.ListQuery, entries []item) *metadata.ListResult {
	t.Helper()
	res, err := v.List(q)
	if err != nil {
		t.Fatal(err)
	}
	want, truncated := naive(entries, q.Prefix, q.Delimiter,
		func(e item) bool { return q.After != "" && under(q.Prefix, q.Delimiter, q.After, e.key) }, q.Limit)
	var got []item
	for _, k := range res.Keys {
		got = append(got, item{key: k.Key})
	}
	for _, p := range res.Prefixes {
		got = append(got, item{prefix: p})
	}
	slices.SortFunc(got, func(a, b item) int { return strings.Compare(a.key+a.prefix, b.key+b.prefix) })
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(item{})); diff != "" || truncated != res.Truncated {
		t.Fatalf("%+v: truncated %v, want %v, and\n%s", q, res.Truncated, truncated, diff)
	}
	if n := len(want); n > 0 && res.Next != want[n-1].key+want[n-1].prefix {
		t.Fatalf("%+v: next is %q, want %+v", q, res.Next, want[n-1])
	}
	return res
}

// TestVersionsAgreeWithNaiveModel writes rows of old versions and markers by
// hand: buckets have none yet, but their format is fixed.
func TestVersionsAgreeWithNaiveModel(t *testing.T) {
	t.Parallel()
	s, r := newListed(t)
	type stored struct {
		item
		order  uint64
		latest bool
	}
	var all []stored
	keys := make(map[string]bool)
	order := uint64(1000)
	for range 150 {
		k := randomKey(r, 4)
		if keys[k] {
			continue
		}
		keys[k] = true
		var of []stored
		for range r.IntN(4) {
			order++
			v := metadata.Version{Order: order, Marker: r.IntN(3) == 0}
			if err := s.db.Set(oldVersionKey(k, order), v.AppendTo(nil), pebble.NoSync); err != nil {
				t.Fatal(err)
			}
			of = append(of, stored{item: item{key: k, id: v.VersionID()}, order: order})
		}
		if len(of) == 0 || r.IntN(2) == 0 {
			s.stamp = order + 1
			order = s.putEmpty(ref.ID, k)
			of = append(of, stored{item: item{key: k, id: "null"}, order: order})
		}
		of[len(of)-1].latest = true
		all = append(all, of...)
	}
	slices.SortFunc(all, func(a, b stored) int {
		if c := strings.Compare(a.key, b.key); c != 0 {
			return c
		}
		return int(b.order) - int(a.order)
	})
	entries, latest := make([]item, len(all)), make(map[item]bool)
	for i, e := range all {
		entries[i], latest[e.item] = e.item, e.latest
	}
	for range 3000 {
		q := &metadata.VersionsQuery{Bucket: ref, Limit: 1 + r.IntN(9)}
		q.Prefix, q.Delimiter = maybe(r, randomKey(r, 2)), maybe(r, alphabet[r.IntN(len(alphabet))])
		at := -1
		switch r.IntN(3) {
		case 1:
			q.KeyAfter = randomKey(r, 3)
		case 2:
			at = r.IntN(len(all))
			if under(q.Prefix, q.Delimiter, all[at].key, all[at].key+"x") || !strings.HasPrefix(all[at].key, q.Prefix) {
				continue // a common prefix has no versions
			}
			q.KeyAfter, q.VersionAfter = all[at].key, all[at].id
		}
		past := func(e item) bool {
			if at >= 0 {
				return slices.Index(entries, e) <= at
			}
			return q.KeyAfter != "" && under(q.Prefix, q.Delimiter, q.KeyAfter, e.key)
		}
		checkVersions(t, s.view(), q, entries, latest, past)
	}
}

func oldVersionKey(key string, order uint64) []byte {
	k := append(binary.BigEndian.AppendUint32(nil, 1), 0x23)
	k = append(k, ref.ID[:]...)
	k = append(k, strings.ReplaceAll(key, "\x00", "\x00\xff")...)
	return binary.BigEndian.AppendUint64(append(k, 0, 1), ^order)
}

func checkVersions(t *testing.T, v state.View, q *metadata.VersionsQuery, entries []item, latest map[item]bool, past func(item) bool) {
	t.Helper()
	res, err := v.Versions(q)
	if err != nil {
		t.Fatal(err)
	}
	want, truncated := naive(entries, q.Prefix, q.Delimiter, past, q.Limit)
	var wantKeys, gotKeys []item
	var wantPrefixes []string
	for _, w := range want {
		if w.prefix != "" {
			wantPrefixes = append(wantPrefixes, w.prefix)
		} else {
			wantKeys = append(wantKeys, w)
		}
	}
	for _, k := range res.Keys {
		e := item{key: k.Key, id: k.Version.VersionID()}
		gotKeys = append(gotKeys, e)
		if k.Latest != latest[e] {
			t.Fatalf("%+v: latest of %+v is %v", q, e, k.Latest)
		}
	}
	diff := cmp.Diff(wantKeys, gotKeys, cmp.AllowUnexported(item{})) + cmp.Diff(wantPrefixes, res.Prefixes)
	if diff != "" || truncated != res.Truncated {
		t.Fatalf("%+v: truncated %v, want %v, and\n%s", q, res.Truncated, truncated, diff)
	}
	if n := len(want); n > 0 && res.Next != want[n-1].key+want[n-1].prefix {
		t.Fatalf("%+v: next is %q, want %+v", q, res.Next, want[n-1])
	}
}

func TestUploadsAgreeWithNaiveModel(t *testing.T) {
	t.Parallel()
	s, r := newListed(t)
	var entries []item
	ids := make(map[string]metadata.UploadID)
	for i := range 300 {
		u := metadata.Upload{ID: id16(fmt.Sprint(i)), Key: randomKey(r, 4)}
		s.apply(&metadata.Command{Kind: metadata.KindCreateUpload, Group: 1, Settings: 1, CreateUpload: &metadata.CreateUpload{Bucket: ref.ID, Upload: u}})
		entries = append(entries, item{key: u.Key, id: u.ID.String()})
		ids[u.ID.String()] = u.ID
	}
	slices.SortStableFunc(entries, func(a, b item) int { return strings.Compare(a.key, b.key) })
	for range 3000 {
		q := &metadata.UploadsQuery{Bucket: ref, Limit: 1 + r.IntN(9)}
		q.Prefix, q.Delimiter = maybe(r, randomKey(r, 2)), maybe(r, alphabet[r.IntN(len(alphabet))])
		at := -1
		switch r.IntN(3) {
		case 1:
			q.KeyAfter = randomKey(r, 3)
		case 2:
			at = r.IntN(len(entries))
			if under(q.Prefix, q.Delimiter, entries[at].key, entries[at].key+"x") || !strings.HasPrefix(entries[at].key, q.Prefix) {
				continue // a common prefix has no uploads
			}
			id := ids[entries[at].id]
			q.KeyAfter, q.UploadAfter = entries[at].key, &id
		}
		want, truncated := naive(entries, q.Prefix, q.Delimiter, func(e item) bool {
			if at >= 0 {
				return slices.Index(entries, e) <= at
			}
			return q.KeyAfter != "" && under(q.Prefix, q.Delimiter, q.KeyAfter, e.key)
		}, q.Limit)
		res, err := s.view().Uploads(q)
		if err != nil {
			t.Fatal(err)
		}
		var wantUploads, got []item
		var wantPrefixes []string
		for _, w := range want {
			if w.prefix != "" {
				wantPrefixes = append(wantPrefixes, w.prefix)
			} else {
				wantUploads = append(wantUploads, w)
			}
		}
		for _, u := range res.Uploads {
			got = append(got, item{key: u.Key, id: u.ID.String()})
		}
		diff := cmp.Diff(wantUploads, got, cmp.AllowUnexported(item{})) + cmp.Diff(wantPrefixes, res.Prefixes)
		if diff != "" || truncated != res.Truncated {
			t.Fatalf("%+v: truncated %v, want %v, and\n%s", q, res.Truncated, truncated, diff)
		}
	}
}

// A client that aborts each page of uploads before it asks for the next one
// must see all of them.
func TestUploadsGoOnBehindOneThatEnded(t *testing.T) {
	t.Parallel()
	s, _ := newListed(t)
	for i := range 5 {
		s.apply(&metadata.Command{Kind: metadata.KindCreateUpload, Group: 1, Settings: 1, CreateUpload: &metadata.CreateUpload{
			Bucket: ref.ID, Upload: metadata.Upload{ID: id16(fmt.Sprint(i)), Key: "k"}}})
	}
	q := &metadata.UploadsQuery{Bucket: ref, Limit: 2}
	seen := 0
	for {
		res, err := s.view().Uploads(q)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range res.Uploads {
			seen++
			s.apply(&metadata.Command{Kind: metadata.KindAbortUpload, Group: 1, Settings: 1, Abort: &metadata.AbortUpload{Bucket: ref.ID, Key: "k", Upload: u.ID}})
		}
		if !res.Truncated {
			break
		}
		q.KeyAfter, q.UploadAfter = res.NextKey, &res.NextID
	}
	if seen != 5 {
		t.Errorf("saw %d uploads, want 5", seen)
	}
}

func TestListOfMissingBucket(t *testing.T) {
	t.Parallel()
	s, _ := newListed(t)
	none := metadata.BucketRef{Group: 1, ID: id16("none")}
	if _, err := s.view().List(&metadata.ListQuery{Bucket: none, Limit: 1}); err != metadata.ErrNoSuchBucket {
		t.Errorf("List = %v, want %v", err, metadata.ErrNoSuchBucket)
	}
	if _, err := s.view().Versions(&metadata.VersionsQuery{Bucket: none, Limit: 1}); err != metadata.ErrNoSuchBucket {
		t.Errorf("Versions = %v, want %v", err, metadata.ErrNoSuchBucket)
	}
	if _, err := s.view().Uploads(&metadata.UploadsQuery{Bucket: none, Limit: 1}); err != metadata.ErrNoSuchBucket {
		t.Errorf("Uploads = %v, want %v", err, metadata.ErrNoSuchBucket)
	}
	if res, err := s.view().List(&metadata.ListQuery{Bucket: ref}); err != nil || res.Truncated || res.Next != "" {
		t.Errorf("List of no keys = %+v, %v", res, err)
	}
}
