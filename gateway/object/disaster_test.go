package object

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/topology"
)

var disasterSeed = flag.Uint64("disaster-seed", 1, "seed of the first machine that loses its metadata")

// disasterSeeds is how many machines lose their metadata, each several times: as
// many as a change must pass, or RUCHE_DISASTERS.
func disasterSeeds(t *testing.T) int {
	text := os.Getenv("RUCHE_DISASTERS")
	if text == "" {
		return 2
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal("RUCHE_DISASTERS:", err)
	}
	return n
}

// TestDisasters is T-DR: clients put, overwrite, delete, copy and upload in
// parts, the power fails, drives go and come back and are replaced. Then all
// metadata and as many drives as may be lost are gone. Recovery brings back every
// object that was acknowledged 10 s before, byte for byte; what was deleted stays
// so; settings of buckets come back, too. The machine goes on from that, and
// loses everything again.
func TestDisasters(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("many lives of a whole machine")
	}
	for i := range disasterSeeds(t) {
		seed := *disasterSeed + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := &life{machine: newMachine(t, seed), registers: make(map[string]*register), exposed: make(map[topology.DriveID]bool)}
				l.begin()
				for range 3 {
					for range 60 + l.rng.IntN(60) {
						l.change()
					}
					l.loseAll()
				}
				l.close()
			})
		})
	}
}

// event is what a register may have been set to.
type event struct {
	at    time.Time // when that was acknowledged
	value string
	sure  bool // it was; else nobody knows
}

// register is something that has one value at a time: an object, settings of a
// bucket, or whether a bucket is there.
type register struct {
	events []event
	read   func() (string, error)
	// begun: what was begun and cut off is finished later, by the janitor or by
	// a recovery: a bucket whose creation was cut off is there then, empty.
	begun bool
	cut   []string
}

// grace is how old a change may be to be lost with the metadata.
const grace = 10 * time.Second

// allowed returns the values that a register may have after all metadata were
// lost.
func (r *register) allowed(now time.Time) (values []string) {
	from := 0
	for i, e := range r.events {
		if e.sure && now.Sub(e.at) >= grace {
			from = i
		}
	}
	if len(r.events) == 0 || !r.events[from].sure || now.Sub(r.events[from].at) < grace {
		values = append(values, "")
	}
	for _, e := range r.events[from:] {
		values = append(values, e.value)
	}
	return append(values, r.cut...)
}

// life is a machine with clients and mishaps.
type life struct {
	*machine
	registers map[string]*register
	names     []string // of registers, in order
	exposed   map[topology.DriveID]bool
	replacing map[topology.DriveID]topology.Drive
	n         int
}

var lifeBuckets = []string{"one", "two"}

// begin makes the buckets and the registers.
func (l *life) begin() {
	l.replacing = make(map[topology.DriveID]topology.Drive)
	add := func(name string, r *register) {
		l.registers[name] = r
		l.names = append(l.names, name)
	}
	for _, bucket := range lifeBuckets {
		l.check(l.CreateBucket(context.Background(), bucket))
		for i := range 12 {
			key := fmt.Sprint("k", i)
			add(bucket+"/"+key, &register{read: func() (string, error) {
				body, err := l.fetch(bucket, key)
				if body == nil {
					return "", err
				}
				return "=" + string(body), err
			}})
		}
		add("compression of "+bucket, &register{read: func() (string, error) {
			c, err := l.Compression(context.Background(), bucket)
			if c == metadata.CompressionOff {
				return "", err
			}
			return fmt.Sprint(c), err
		}})
	}
	for _, bucket := range []string{"now", "then"} {
		add("bucket "+bucket, &register{begun: true, read: func() (string, error) {
			page, err := l.Buckets(context.Background(), &BucketsRequest{Limit: 100})
			if err != nil || !slices.ContainsFunc(page.Buckets, func(b BucketInfo) bool { return b.Name == bucket }) {
				return "", err
			}
			return "there", nil
		}})
	}
}

// note notes what a change has led to, and goes on after a failure of the power.
func (l *life) note(name, value string, err error) {
	l.t.Helper()
	r := l.registers[name]
	r.events = append(r.events, event{time.Now(), value, err == nil})
	if r.cut = nil; r.begun && err != nil {
		r.cut = []string{value}
	}
	if l.failed() {
		l.again()
	}
	if err != nil {
		l.learn(name)
	}
}

// learn takes what a register has now for sure.
func (l *life) learn(name string) {
	l.t.Helper()
	value, err := l.registers[name].read()
	if l.failed() {
		l.again()
		value, err = l.registers[name].read()
	}
	if err != nil {
		l.t.Errorf("%s: %v", name, err)
		return
	}
	r := l.registers[name]
	if values := r.allowed(time.Now()); !slices.Contains(values, value) {
		l.t.Errorf("%s is %s, want one of %s", name, brief(value), brief(values...))
	}
	r.events = append(r.events, event{time.Now(), value, true})
}

// brief shortens values for a message.
func brief(values ...string) (out string) {
	for _, v := range values {
		if len(v) > 20 {
			v = fmt.Sprintf("%.20q of %d bytes", v, len(v))
		}
		out += "[" + v + "] "
	}
	return out
}

// again starts the machine after a failure of the power, and goes on with what
// that has cut off.
func (l *life) again() {
	l.t.Helper()
	l.reboot()
	for old, fresh := range l.replacing {
		l.check(l.ReplaceDrive(context.Background(), old, fresh))
		delete(l.replacing, old)
	}
}

// change does something at random.
func (l *life) change() {
	l.t.Helper()
	ctx := context.Background()
	bucket, key := lifeBuckets[l.rng.IntN(2)], fmt.Sprint("k", l.rng.IntN(12))
	name := bucket + "/" + key
	switch n := l.rng.IntN(40); {
	case n < 14:
		body := l.body()
		_, err := l.Put(ctx, &PutRequest{Bucket: bucket, Key: key, Body: Body{Reader: strings.NewReader(body), Bytes: int64(len(body))}})
		l.note(name, "="+body, err)
	case n < 19:
		results, err := l.Delete(ctx, bucket, []DeleteRequest{{Key: key}})
		if err == nil {
			err = results[0].Err
		}
		l.note(name, "", err)
	case n < 21:
		l.copy(bucket, key)
	case n < 22:
		body, err := l.multipart(bucket, key)
		l.note(name, "="+body, err)
	case n < 24:
		c := metadata.Compression(l.rng.IntN(3))
		value := fmt.Sprint(c)
		if c == metadata.CompressionOff {
			value = ""
		}
		l.note("compression of "+bucket, value, l.SetCompression(ctx, bucket, c))
	case n < 26:
		l.buckets([]string{"now", "then"}[l.rng.IntN(2)])
	case n < 32:
		l.pass(time.Duration(l.rng.Int64N(int64(5 * time.Second))))
	case n < 34:
		l.pass(time.Duration(l.rng.Int64N(int64(15 * time.Minute))))
	case n < 36:
		l.burn(1 + l.rng.IntN(80))
	case n < 37:
		l.replace()
	case n < 39:
		l.comeAndGo()
	default:
		l.read(l.names[l.rng.IntN(len(l.names))])
	}
	if l.failed() {
		l.again()
	}
}

// body is one of a kind.
func (l *life) body() string {
	l.n++
	size := []int{0, 10, 3000, 20_000, 70_000, 300_000}[l.rng.IntN(6)]
	return fmt.Sprintf("%d:", l.n) + string(payload(size, l.rng.Uint64()))
}

func (l *life) copy(bucket, key string) {
	l.t.Helper()
	from := fmt.Sprint("k", l.rng.IntN(12))
	value, err := l.registers[lifeBuckets[0]+"/"+from].read()
	if err != nil || value == "" || l.failed() {
		return
	}
	_, err = l.Copy(context.Background(), &CopyRequest{Source: CopySource{Bucket: lifeBuckets[0], Key: from}, Bucket: bucket, Key: key})
	l.note(bucket+"/"+key, value, err)
}

// multipart uploads parts, of which all but the last must be long.
func (l *life) multipart(bucket, key string) (string, error) {
	ctx := context.Background()
	u, err := l.CreateUpload(ctx, &UploadRequest{Bucket: bucket, Key: key})
	if err != nil {
		return "", err
	}
	bodies := []string{l.body()}
	if l.rng.IntN(4) == 0 {
		bodies = []string{string(payload(5<<20, l.rng.Uint64())), l.body()}
	}
	var parts []CompletePart
	whole := ""
	for i, b := range bodies {
		r, err := l.PutPart(ctx, &PartRequest{Bucket: bucket, Key: key, Upload: u.ID, Number: i + 1, Body: Body{Reader: strings.NewReader(b), Bytes: int64(len(b))}})
		if err != nil {
			return whole, err
		}
		parts = append(parts, CompletePart{Number: i + 1, ETag: r.ETag})
		whole += b
	}
	_, err = l.Complete(ctx, &CompleteRequest{Bucket: bucket, Key: key, Upload: u.ID, Parts: parts, Bytes: -1})
	return whole, err
}

// buckets makes a bucket, or deletes it if it is there.
func (l *life) buckets(bucket string) {
	l.t.Helper()
	name := "bucket " + bucket
	there, err := l.registers[name].read()
	switch {
	case err != nil || l.failed():
	case there == "":
		l.note(name, "there", l.CreateBucket(context.Background(), bucket))
	default:
		l.note(name, "", l.DeleteBucket(context.Background(), bucket))
	}
}

// pass lets time pass.
func (l *life) pass(d time.Duration) {
	l.t.Helper()
	time.Sleep(d)
	synctest.Wait()
	if l.failed() {
		l.again()
	}
	if len(l.exposed) > 0 && len(l.away) == 0 && l.settled() {
		clear(l.exposed)
	}
}

// read checks a register.
func (l *life) read(name string) {
	l.t.Helper()
	value, err := l.registers[name].read()
	if l.failed() {
		return
	}
	events := l.registers[name].events
	want := ""
	if len(events) > 0 {
		want = events[len(events)-1].value
	}
	if err != nil || value != want && !slices.Contains(l.registers[name].cut, value) {
		l.t.Errorf("%s is %s, want %s: %v", name, brief(value), brief(want), err)
	}
}

// present returns the drives that answer, in order.
func (l *life) present() (ids []topology.DriveID) {
	for id := range l.paths {
		if !l.away[id] {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b topology.DriveID) int { return slices.Compare([]byte(l.paths[a]), []byte(l.paths[b])) })
	return ids
}

// replace wipes a drive, if one more may be lost, and puts an empty one in its
// place.
func (l *life) replace() {
	l.t.Helper()
	if len(l.exposed) >= 2 {
		return
	}
	ids := l.present()
	old := ids[l.rng.IntN(len(ids))]
	l.exposed[old] = true
	l.check(l.node.RemoveDrive(old))
	l.check(l.fs.RemoveAll(l.paths[old]))
	delete(l.paths, old)
	l.fill(old)
}

// fill puts an empty drive in the place of one that is gone.
func (l *life) fill(old topology.DriveID) {
	l.t.Helper()
	fresh := l.format()
	_, err := l.node.AddDrive(context.Background(), l.paths[fresh.ID])
	l.check(err)
	l.replacing[old] = fresh
	if err := l.ReplaceDrive(context.Background(), old, fresh); err == nil {
		delete(l.replacing, old)
	} else if !l.failed() {
		l.t.Error(err)
	}
}

// comeAndGo has a drive answer no more, if one more may be lost, or again.
func (l *life) comeAndGo() {
	l.t.Helper()
	if len(l.exposed) < 2 && l.rng.IntN(2) == 0 {
		ids := l.present()
		id := ids[l.rng.IntN(len(ids))]
		l.exposed[id], l.away[id] = true, true
		l.shards.lose(id)
		return
	}
	l.allBack()
}

func (l *life) allBack() {
	l.t.Helper()
	for id := range l.away {
		l.shards.mu.Lock()
		delete(l.shards.down, id)
		l.shards.mu.Unlock()
		l.check(l.node.Suspect(context.Background(), id, nil))
	}
	clear(l.away)
}

// loseAll loses all metadata and as many drives as may be lost, checks what
// recovery brings back, and gets everything into order again.
func (l *life) loseAll() {
	l.t.Helper()
	lost := make(map[topology.DriveID]string)
	take := func(id topology.DriveID) { lost[id], l.exposed[id] = l.paths[id], true }
	for id := range l.away {
		take(id)
	}
	for ids := l.present(); len(l.exposed) < 2; {
		take(ids[l.rng.IntN(len(ids))])
	}
	clear(l.away)
	clear(l.replacing)
	var gone []topology.DriveID
	for id := range lost {
		gone = append(gone, id)
	}
	now := time.Now()
	l.disaster(gone)
	for _, name := range l.names {
		r := l.registers[name]
		value, err := r.read()
		if values := r.allowed(now); err != nil || !slices.Contains(values, value) {
			l.t.Errorf("%s is %s after the recovery, want one of %s: %v", name, brief(value), brief(values...), err)
		}
		r.events, r.cut = []event{{now.Add(-grace), value, true}}, nil
	}
	l.mend(lost)
	for _, name := range l.names {
		l.read(name)
	}
}

// mend replaces drives that were lost, or finds them again, and waits until as
// many may be lost as before.
func (l *life) mend(lost map[topology.DriveID]string) {
	l.t.Helper()
	table, err := l.local.Drives(context.Background())
	l.check(err)
	returns := l.rng.IntN(2) == 0
	for _, d := range table.Drives {
		_, here := l.paths[d.ID]
		if d.State != topology.DriveActive || here {
			continue
		}
		if path, was := lost[d.ID]; was && returns {
			returns = false
			// What it knows and no other drive, nobody misses any more.
			l.confirm()
			l.pass(90 * time.Minute)
			l.paths[d.ID] = path
			_, err := l.node.AddDrive(context.Background(), path)
			l.check(err)
			l.check(l.node.Suspect(context.Background(), d.ID, nil))
			continue
		}
		if path, was := lost[d.ID]; was {
			l.check(l.fs.RemoveAll(path))
		}
		l.fill(d.ID)
	}
	l.confirm()
	for waited := time.Duration(0); ; waited += 5 * time.Minute {
		l.bg.manifests.Pass()
		l.pass(5 * time.Minute)
		if waited >= 15*time.Minute && l.settled() {
			break
		}
		if waited > 24*time.Hour {
			l.t.Fatalf("not in order a day later: %+v\n%+v\n%+v\n%d short", l.ManifestState(), l.RepairState(), l.RebuildState(), l.short())
		}
	}
	clear(l.exposed)
}
