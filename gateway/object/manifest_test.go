package object

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/gateway/recovery"
	"github.com/ruche-storage/ruche/gateway/seal"
	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/metadata/topology"
)

// rootKeys is a keyring of one master key that seals root tables too: it marks
// them.
type rootKeys struct{ staticKeys }

func (rootKeys) SealBytes(_ io.Reader, additional, plain []byte) (metadata.KeyID, []byte, error) {
	return metadata.KeyID{1}, slices.Concat(sealedFor(additional), plain), nil
}

func (rootKeys) OpenBytes(_ metadata.KeyID, additional, sealed []byte) ([]byte, error) {
	plain, ok := bytes.CutPrefix(sealed, sealedFor(additional))
	if !ok {
		return nil, fmt.Errorf("root tables of another place")
	}
	return plain, nil
}

func sealedFor(additional []byte) []byte { return append([]byte("sealed for "), additional...) }

// raise has all groups keep an outbox.
func (w *world) raise() {
	w.t.Helper()
	for group := range uint32(metadata.DataGroups + 1) {
		cmd := &metadata.Command{Kind: metadata.KindClusters, Version: 1, Group: group, Clusters: &metadata.ClusterVersion{Version: 2}}
		rand.Read(cmd.Request[:])
		if _, err := w.meta.Metadata.Commit(context.Background(), cmd); err != nil {
			w.t.Fatal(err)
		}
	}
}

// TestMetadataAreRecoveredFromDrives loses all metadata 5 s after the last
// change, and as many drives as may be lost, and compares what recovery makes
// of the others.
func TestMetadataAreRecoveredFromDrives(t *testing.T) {
	t.Parallel()
	for _, encryption := range []bool{true, false} {
		t.Run(fmt.Sprint("encryption=", encryption), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, setup{groups: 8, options: func(o *Options) {
					o.Background, o.RootKeys, o.Encryption = &BackgroundOptions{}, rootKeys{}, encryption
				}})
				w.mustPut("from before", payload(40_000, 5))
				w.raise()
				time.Sleep(11 * time.Second) // until the manifest drives were looked at
				bodies := w.busyDay(t)
				time.Sleep(5 * time.Second)
				synctest.Wait()
				if s := w.ManifestState(); s.Lag != 0 || s.Skipped != 0 || s.Filling != 0 {
					t.Errorf("after 5 s %+v", s)
				}
				rng := mathrand.New(mathrand.NewPCG(1, 3))
				for range 4 {
					w.recoverWithout(rng.Perm(len(w.drives))[:2], bodies)
				}
			})
		})
	}
}

// busyDay puts, overwrites and deletes, and returns what must be there then.
func (w *world) busyDay(t *testing.T) map[string][]byte {
	bodies := map[string][]byte{"from before": payload(40_000, 5)}
	for i := range 40 {
		key := fmt.Sprint("k", i%23)
		size := []int{0, 10, 5000, 20_000, 300_000}[i%5]
		bodies[key] = payload(size, uint64(i))
		w.mustPut(key, bodies[key])
	}
	for _, key := range []string{"k3", "k4", "k5"} {
		w.delete(key)
		delete(bodies, key)
	}
	w.mustPut("k4", bodies["k6"])
	bodies["k4"] = bodies["k6"]
	u, err := w.CreateUpload(t.Context(), &UploadRequest{Bucket: "b", Key: "multipart"})
	check(t, err)
	var parts []CompletePart
	var whole []byte
	for n := 1; n <= 3; n++ {
		part := payload([]int{5 << 20, 5 << 20, 100}[n-1], uint64(n))
		res, err := w.PutPart(t.Context(), &PartRequest{Bucket: "b", Key: "multipart", Upload: u.ID, Number: n, Body: body(part)})
		check(t, err)
		parts = append(parts, CompletePart{Number: n, ETag: res.ETag})
		whole = append(whole, part...)
	}
	_, err = w.Complete(t.Context(), &CompleteRequest{Bucket: "b", Key: "multipart", Upload: u.ID, Parts: parts, Bytes: -1})
	check(t, err)
	bodies["multipart"] = whole
	check(t, w.CreateBucket(t.Context(), "empty"))
	check(t, w.CreateBucket(t.Context(), "gone"))
	check(t, w.DeleteBucket(t.Context(), "gone"))
	return bodies
}

// recoverWithout recovers into a new state without some drives, and compares
// it with the present one.
func (w *world) recoverWithout(lost []int, bodies map[string][]byte) {
	w.t.Helper()
	ctx := context.Background()
	o := recovery.Options{Cluster: seal.ClusterID{}, Keys: rootKeys{staticKeys{seal.Key{7}}}, FS: vfs.NewMem(), Scratch: "scratch",
		Now: func() time.Time { return time.Now().Add(time.Minute) }}
	for i, id := range w.drives {
		if slices.Contains(lost, i) {
			continue
		}
		drive, err := w.node.Drive(id)
		check(w.t, err)
		o.Drives = append(o.Drives, recovery.Drive{Row: topology.Drive{ID: id, Site: "par1", State: topology.DriveActive}, Records: drive})
	}
	found, err := recovery.Collect(ctx, o)
	if err != nil {
		w.t.Fatal(err)
	}
	into, err := replica.Open("recovered", replica.Options{FS: vfs.NewMem(), ReserveBytes: -1, AcceptClock: true, MemTableBytes: 4 << 20, CacheBytes: 8 << 20})
	if err != nil {
		w.t.Fatal(err)
	}
	report, err := found.Restore(ctx, into)
	check(w.t, err)
	check(w.t, found.Close())
	if !report.Complete() || report.Objects != int64(len(bodies)) || len(report.Buckets) != 2 {
		w.t.Errorf("report %+v", report)
	}
	w.same(into, bodies)
	check(w.t, into.Close())
}

// same compares the objects of two states.
func (w *world) same(into *replica.Local, bodies map[string][]byte) {
	w.t.Helper()
	ctx := context.Background()
	row, err := w.meta.Bucket(ctx, "b")
	check(w.t, err)
	ref := metadata.BucketRef{Group: row.Group, ID: row.ID}
	for key := range bodies {
		want, err := w.meta.Open(ctx, ref, key, "")
		check(w.t, err)
		got, err := into.Open(ctx, ref, key, "")
		if err != nil {
			w.t.Errorf("%s: %v", key, err)
			continue
		}
		if !bytes.Equal(want.Version.AppendTo(nil), got.Version.AppendTo(nil)) || !bytes.Equal(want.Inline, got.Inline) || !slices.Equal(want.Chunks, got.Chunks) {
			w.t.Errorf("%s: recovered %+v, want %+v", key, got, want)
		}
	}
	list, err := into.List(ctx, &metadata.ListQuery{Bucket: ref, Limit: 1000})
	check(w.t, err)
	for i := range list.Keys {
		if _, ok := bodies[list.Keys[i].Key]; !ok {
			w.t.Errorf("%s, which was deleted, is back", list.Keys[i].Key)
		}
	}
	rows, err := into.ChunkRows(ctx, row.Group, nil, 10_000)
	check(w.t, err)
	for _, r := range rows {
		found, err := w.meta.Lookup(ctx, row.Group, []metadata.LookupRef{{Bucket: r.Bucket, Part: r.Part, ChunkNo: r.Chunk.No, Chunk: r.Chunk.ID}})
		check(w.t, err)
		if !found.Found[0].Referenced || found.Found[0].Chunk != r.Chunk {
			w.t.Errorf("a chunk that was never there: %+v", r)
		}
	}
}

// BenchmarkManifests writes 4 KiB objects without and with manifests, which
// come to their end before the time is taken.
func BenchmarkManifests(b *testing.B) {
	for _, on := range []bool{false, true} {
		b.Run(fmt.Sprint("on=", on), func(b *testing.B) {
			s := benchSetup(b, true)
			s.memory = 192 << 20
			change := s.options
			s.options = func(o *Options) {
				change(o)
				o.Background, o.RootKeys = &BackgroundOptions{}, rootKeys{}
			}
			w := newWorld(b, s)
			w.mustPut("first", nil)
			if on {
				w.raise()
				for s := w.ManifestState(); s.Filled == 0 || s.Filling > 0; s = w.ManifestState() {
					time.Sleep(10 * time.Millisecond)
				}
			}
			data := payload(4<<10, 1)
			b.SetParallelism(8)
			b.ReportAllocs()
			reportCPU(b)
			b.ResetTimer()
			var n atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := w.put(fmt.Sprintf("photos/2026/%08d", n.Add(1)), data); err != nil {
						b.Error(err)
					}
				}
			})
			for on && w.ManifestState().Lag > 0 {
				time.Sleep(time.Millisecond)
			}
			if on {
				b.ReportMetric(float64(w.ManifestState().Bytes)/float64(b.N), "manifest-B/op")
			}
		})
	}
}
