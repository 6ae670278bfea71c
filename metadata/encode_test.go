package metadata_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/ruche-storage/ruche/metadata"
)

// row is a value with a stored form.
type row interface {
	AppendTo([]byte) []byte
	Unmarshal([]byte) error
}

// page gives a page of a part list the methods of a row.
type page struct{ Parts []metadata.Part }

func (p *page) AppendTo(b []byte) []byte { return metadata.AppendPartPage(b, p.Parts) }

func (p *page) Unmarshal(b []byte) (err error) {
	p.Parts, err = metadata.UnmarshalPartPage(b)
	return err
}

// rows is every stored value, by its name in the golden file.
var rows = []struct {
	name  string
	fresh func() row
}{
	{"version", func() row { return new(metadata.Version) }},
	{"part", func() row { return new(metadata.Part) }},
	{"part-page", func() row { return new(page) }},
	{"chunk", func() row { return new(metadata.Chunk) }},
	{"upload", func() row { return new(metadata.Upload) }},
	{"upload-place", func() row { return new(metadata.UploadPlace) }},
	{"completion", func() row { return new(metadata.Completion) }},
	{"owner", func() row { return new(metadata.Owner) }},
	{"trash", func() row { return new(metadata.Trash) }},
	{"short", func() row { return new(metadata.Short) }},
	{"bucket", func() row { return new(metadata.Bucket) }},
	{"settings", func() row { return new(metadata.Settings) }},
	{"usage", func() row { return new(metadata.Usage) }},
	{"account", func() row { return new(metadata.Account) }},
	{"access-key", func() row { return new(metadata.AccessKey) }},
	{"fence", func() row { return new(metadata.Fence) }},
	{"incarnation", func() row { return new(metadata.Incarnation) }},
	{"placement-groups", func() row { return new(metadata.PGTable) }},
	{"drives", func() row { return new(metadata.DriveTable) }},
	{"head", func() row { return new(metadata.Head) }},
	{"result", func() row { return new(metadata.Result) }},
	{"outbox-entry", func() row { return new(metadata.OutboxEntry) }},
	{"manifest-members", func() row { return new(metadata.ManifestMembers) }},
	{"command-version", func() row { return new(metadata.ClusterVersion) }},
	{"raft", func() row { return new(metadata.RaftPosition) }},
	{"stores", func() row { return new(metadata.StoreTable) }},
}

// kinds is every kind of command and the payload that it carries.
var kinds = map[metadata.Kind]string{
	metadata.KindFence: "Fence", metadata.KindPushPGs: "PGs", metadata.KindClock: "Clock",
	metadata.KindPutAccount: "Account", metadata.KindPutAccessKey: "AccessKey", metadata.KindDeleteAccessKey: "AccessKey",
	metadata.KindPutDrives: "Drives", metadata.KindReserveBucket: "Bucket", metadata.KindActivateBucket: "Bucket",
	metadata.KindRetireBucket: "Bucket", metadata.KindForgetBucket: "Bucket", metadata.KindPutIncarnation: "Incarnation",
	metadata.KindOpenBucket: "Settle", metadata.KindPutSettings: "Settle", metadata.KindCloseBucket: "Settle",
	metadata.KindPurgeBucket: "Settle", metadata.KindCommitVersion: "CommitVersion", metadata.KindDeleteVersions: "Delete",
	metadata.KindCreateUpload: "CreateUpload", metadata.KindCommitPart: "CommitPart", metadata.KindComplete: "Complete",
	metadata.KindAbortUpload: "Abort", metadata.KindDropTrash: "DropTrash", metadata.KindPutShort: "PutShort",
	metadata.KindClusters: "Clusters", metadata.KindPutStores: "Stores",
	metadata.KindManifested: "Manifested", metadata.KindPutManifestMembers: "Members",
	metadata.KindRestoreVersion: "RestoreVersion", metadata.KindRestoreParts: "RestoreParts",
	metadata.KindRestoreBucket: "Bucket", metadata.KindRestoreAccessKey: "AccessKey",
}

// fill sets every field of v to a value of its own, so that a field that the
// encoding forgets is found.
func fill(v reflect.Value, n *uint64) {
	*n++
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Name == "Unknown" {
				u := protowire.AppendTag(nil, 2000, protowire.VarintType)
				u = protowire.AppendVarint(u, *n)
				v.Field(i).Set(reflect.ValueOf(u).Convert(v.Field(i).Type()))
				continue
			}
			fill(v.Field(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.Interface: // of errors
		v.Set(reflect.ValueOf(metadata.ErrConflict))
	case reflect.String:
		v.SetString(fmt.Sprintf("text %d", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint8:
		v.SetUint(*n%255 + 1)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	default:
		v.SetUint(*n)
	}
}

// sample is a row with every field set.
func sample(fresh func() row) row {
	r, n := fresh(), uint64(0)
	fill(reflect.ValueOf(r).Elem(), &n)
	return r
}

func sampleCommand(k metadata.Kind) *metadata.Command {
	c, n := new(metadata.Command), uint64(100)
	for i := range reflect.TypeOf(*c).NumField() {
		f := reflect.ValueOf(c).Elem().Field(i)
		if f.Kind() != reflect.Pointer || reflect.TypeOf(*c).Field(i).Name == kinds[k] {
			fill(f, &n)
		}
	}
	c.Kind, c.Version = k, metadata.CommandVersion
	return c
}

func compareErrors(x, y error) bool { return errors.Is(x, y) || errors.Is(y, x) }

// TestGolden pins the stored forms. What the file holds must stay readable for
// ever: a change of an existing line is a change of the format.
func TestGolden(t *testing.T) {
	t.Parallel()
	datadriven.RunTest(t, "testdata/rows.golden", func(t *testing.T, d *datadriven.TestData) string {
		for _, r := range rows {
			if r.name == d.Cmd {
				return golden(t, d, sample(r.fresh), r.fresh())
			}
		}
		for k := range kinds {
			if d.Cmd == fmt.Sprintf("command-%d", k) {
				return golden(t, d, sampleCommand(k), new(metadata.Command))
			}
		}
		t.Fatalf("%s: no row %s", d.Pos, d.Cmd)
		return ""
	})
}

func golden(t *testing.T, d *datadriven.TestData, want, got row) string {
	t.Helper()
	if !d.Rewrite {
		b, err := hex.DecodeString(strings.Join(strings.Fields(d.Expected), ""))
		if err != nil {
			t.Fatal(err)
		}
		if err := got.Unmarshal(b); err != nil {
			t.Fatalf("%s: %v", d.Pos, err)
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(compareErrors)); diff != "" {
			t.Errorf("%s: decoded:\n%s", d.Pos, diff)
		}
	}
	var out strings.Builder
	for line := range slices.Chunk(want.AppendTo(nil), 40) {
		fmt.Fprintf(&out, "%x\n", line)
	}
	return out.String()
}

func TestGoldenFileIsComplete(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	datadriven.RunTest(t, "testdata/rows.golden", func(_ *testing.T, d *datadriven.TestData) string {
		seen[d.Cmd] = true
		return d.Expected
	})
	for _, r := range rows {
		if !seen[r.name] {
			t.Errorf("no golden %s", r.name)
		}
	}
	for k := range kinds {
		if !seen[fmt.Sprintf("command-%d", k)] {
			t.Errorf("no golden command of kind %d", k)
		}
	}
}

func TestZeroRowsAreOneByte(t *testing.T) {
	t.Parallel()
	for _, r := range rows {
		b := r.fresh().AppendTo(nil)
		if r.name == "completion" {
			continue // it always has a version
		}
		if !bytes.Equal(b, []byte{metadata.RowVersion}) {
			t.Errorf("%s: %x", r.name, b)
		}
	}
}

func TestLaterRowVersionsAreRefused(t *testing.T) {
	t.Parallel()
	for _, r := range rows {
		b := r.fresh().AppendTo(nil)
		b[0]++
		if err := r.fresh().Unmarshal(b); !errors.Is(err, metadata.ErrRowVersion) {
			t.Errorf("%s: %v, want %v", r.name, err, metadata.ErrRowVersion)
		}
		if err := r.fresh().Unmarshal(nil); !errors.Is(err, metadata.ErrMalformed) {
			t.Errorf("%s: empty: %v, want %v", r.name, err, metadata.ErrMalformed)
		}
	}
}

func TestTruncatedRowsAreRefused(t *testing.T) {
	t.Parallel()
	for _, r := range rows {
		if r.name == "completion" {
			continue // encoded again it always has a version
		}
		b := sample(r.fresh).AppendTo(nil)
		for n := 1; n < len(b); n++ {
			got := r.fresh()
			if err := got.Unmarshal(b[:n:n]); err == nil && !bytes.Equal(got.AppendTo(nil), b[:n]) {
				t.Errorf("%s: the first %d of %d bytes were taken for something else", r.name, n, len(b))
			}
		}
	}
}

func TestDecodedRowsDoNotReferToTheBuffer(t *testing.T) {
	t.Parallel()
	for _, r := range rows {
		b := sample(r.fresh).AppendTo(nil)
		want := bytes.Clone(b)
		got := r.fresh()
		if err := got.Unmarshal(b); err != nil {
			t.Fatal(err)
		}
		for i := range b {
			b[i] = 0xee
		}
		if !bytes.Equal(got.AppendTo(nil), want) {
			t.Errorf("%s changed with the buffer", r.name)
		}
	}
}

func TestUnknownCommandsAreRefused(t *testing.T) {
	t.Parallel()
	later := sampleCommand(metadata.KindClock)
	later.Version++
	field := protowire.AppendVarint(protowire.AppendTag(sampleCommand(metadata.KindClock).AppendTo(nil), 15, protowire.VarintType), 1)
	for name, test := range map[string]struct {
		b    []byte
		want error
	}{
		"kind":    {(&metadata.Command{Kind: 999, Version: 1}).AppendTo(nil), nil},
		"version": {later.AppendTo(nil), metadata.ErrUnknownKind},
		"field":   {field, metadata.ErrMalformed},
	} {
		var c metadata.Command
		err := c.Unmarshal(test.b)
		if name == "kind" {
			// Without a payload only the head is known; Known tells.
			err, test.want = c.Known(), metadata.ErrUnknownKind
		}
		if !errors.Is(err, test.want) {
			t.Errorf("unknown %s: %v, want %v", name, err, test.want)
		}
	}
}

func TestRejectionCodes(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]error{
		"": nil, "no-such-bucket": metadata.ErrNoSuchBucket, "bucket-exists": metadata.ErrBucketExists,
		"bucket-not-empty": metadata.ErrBucketNotEmpty, "no-such-key": metadata.ErrNoSuchKey,
		"no-such-version": metadata.ErrNoSuchVersion, "no-such-upload": metadata.ErrNoSuchUpload,
		"invalid-part": metadata.ErrInvalidPart, "precondition-failed": metadata.ErrPreconditionFailed,
		"conflict": metadata.ErrConflict, "stale-settings": metadata.ErrStaleSettings,
		"fenced-epoch": metadata.ErrFencedEpoch, "no-such-access-key": metadata.ErrNoSuchAccessKey,
		"access-key-exists": metadata.ErrAccessKeyExists, "too-many-buckets": metadata.ErrTooManyBuckets,
		"inline-full": metadata.ErrInlineFull, "invalid-command": metadata.ErrInvalidCommand, "version-too-low": metadata.ErrVersionTooLow,
	} {
		got, err := metadata.RejectionFromCode(code)
		if err != nil || got != want {
			t.Errorf("RejectionFromCode(%q) = %v, %v; want %v", code, got, err, want)
		}
		if c := metadata.RejectionCode(want); c != code {
			t.Errorf("RejectionCode(%v) = %q, want %q", want, c, code)
		}
		if want != nil && !metadata.IsRejection(fmt.Errorf("wrapped: %w", want)) {
			t.Errorf("%v is no rejection", want)
		}
	}
	if _, err := metadata.RejectionFromCode("of-the-future"); !errors.Is(err, metadata.ErrMalformed) {
		t.Errorf("an unknown code: %v", err)
	}
	if metadata.IsRejection(metadata.ErrUnavailable) {
		t.Error("ErrUnavailable is a rejection")
	}
}

func TestVersionIDs(t *testing.T) {
	t.Parallel()
	v := metadata.Version{Order: 0x0102030405060708, Random: [8]byte{9, 10, 11, 12, 13, 14, 15, 16}}
	const text = "0102030405060708090a0b0c0d0e0f10"
	if got := v.VersionID(); got != text {
		t.Errorf("VersionID = %s, want %s", got, text)
	}
	order, random, ok := metadata.ParseVersionID(text)
	if !ok || order != v.Order || random != v.Random {
		t.Errorf("ParseVersionID = %x, %x, %v", order, random, ok)
	}
	for _, bad := range []string{"", "null", text[1:], text + "0", strings.ToUpper(text), strings.Repeat("g", 32)} {
		if _, _, ok := metadata.ParseVersionID(bad); ok {
			t.Errorf("ParseVersionID(%q) is ok", bad)
		}
	}
	v.Null = true
	if got := v.VersionID(); got != "null" {
		t.Errorf("VersionID of the null version = %s", got)
	}
}

// allocated runs f and fails if it allocates far more than its input has.
// Repeated fields are bounded in number, which the constant allows for.
func allocated(t *testing.T, in []byte, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20+200*uint64(len(in)) {
		t.Errorf("%d bytes of input made it allocate %d", len(in), n)
	}
}

func FuzzRows(f *testing.F) {
	for i, r := range rows {
		f.Add(byte(i), sample(r.fresh).AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		r := rows[int(which)%len(rows)]
		fuzzRow(t, b, r.fresh(), r.fresh())
	})
}

// TestManyUnknownFields: what fields of a later version cost grows with their
// bytes, not with the square of them, and none is lost.
func TestManyUnknownFields(t *testing.T) {
	for i, r := range rows {
		b := sample(r.fresh).AppendTo(nil)
		for n := range 5000 {
			b = protowire.AppendTag(b, protowire.Number(100+n%2), protowire.VarintType)
			b = protowire.AppendVarint(b, uint64(n))
		}
		first, second := r.fresh(), r.fresh()
		var err error
		allocated(t, b, func() { err = first.Unmarshal(b) })
		if err != nil {
			continue // a closed message
		}
		again := first.AppendTo(nil)
		if len(again) != len(b) {
			t.Errorf("row %d: %d bytes were kept of %d", i, len(again), len(b))
		}
		if err := second.Unmarshal(again); err != nil || !bytes.Equal(second.AppendTo(nil), again) {
			t.Errorf("row %d: encoded again: %v", i, err)
		}
	}
}

func FuzzCommand(f *testing.F) {
	for k := range kinds {
		f.Add(sampleCommand(k).AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) { fuzzRow(t, b, new(metadata.Command), new(metadata.Command)) })
}

// fuzzRow decodes b, and what that encodes to must decode to the same again.
func fuzzRow(t *testing.T, b []byte, first, second row) {
	var err error
	allocated(t, b, func() { err = first.Unmarshal(b) })
	if err != nil {
		return
	}
	again := first.AppendTo(nil)
	if err := second.Unmarshal(again); err != nil {
		t.Fatalf("encoded again: %v\n%x", err, again)
	}
	if got := second.AppendTo(nil); !bytes.Equal(got, again) {
		t.Errorf("encoded twice:\n%x\n%x", again, got)
	}
}

func FuzzVersionID(f *testing.F) {
	f.Add("0102030405060708090a0b0c0d0e0f10")
	f.Add("null")
	f.Fuzz(func(t *testing.T, s string) {
		if order, random, ok := metadata.ParseVersionID(s); ok && metadata.VersionID(order, random) != s {
			t.Errorf("%q is read as %q", s, metadata.VersionID(order, random))
		}
	})
}
