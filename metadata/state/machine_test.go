package state_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/metadata"
	"github.com/ruche-storage/ruche/metadata/state"
)

// quiet discards what Pebble logs and turns what it calls fatal into a panic.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf(format, args...))
}

func openDB(t testing.TB) *pebble.DB {
	t.Helper()
	db, err := pebble.Open("", &pebble.Options{FS: vfs.NewMem(), Logger: quiet{}, MemTableSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// id16 makes an id of a name, the same one each time.
func id16(name string) (id [16]byte) {
	sum := sha256.Sum256([]byte(name))
	copy(id[:], sum[:])
	return id
}

// script runs one file of testdata. The group of all commands is 1, or the
// root for those that belong there; the bucket is called b.
type script struct {
	t       *testing.T
	db      *pebble.DB
	machine *state.Machine
	stamp   uint64
	epoch   uint64
	names   map[[16]byte]string // of ids, to print them
}

var ref = metadata.BucketRef{Group: 1, ID: id16("b")}

func (s *script) name(id [16]byte) string {
	if n, ok := s.names[id]; ok {
		return n
	}
	return "?"
}

func (s *script) id(name string) [16]byte {
	id := id16(name)
	s.names[id] = name
	return id
}

func TestScripts(t *testing.T) {
	t.Parallel()
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		t.Parallel()
		db := openDB(t)
		s := &script{t: t, db: db, machine: state.New(db), stamp: 1000, epoch: 1, names: make(map[[16]byte]string)}
		s.id("b")
		s.apply(&metadata.Command{Kind: metadata.KindFence, Group: 1, Fence: &metadata.Fence{Floor: 1, Living: []uint64{1}}})
		s.apply(&metadata.Command{Kind: metadata.KindFence, Fence: &metadata.Fence{Floor: 1, Living: []uint64{1}}})
		datadriven.RunTest(t, path, s.run)
	})
}

// apply carries out a command and commits it alone.
func (s *script) apply(c *metadata.Command) *metadata.Result {
	s.t.Helper()
	c.Version = metadata.CommandVersion
	if c.Stamp == 0 {
		c.Stamp = s.stamp
	}
	b := s.machine.NewBatch()
	position, err := b.Position(c.Group)
	if err != nil {
		s.t.Fatal(err)
	}
	// Every command goes through its encoding, as it would through a log.
	var decoded metadata.Command
	if err := decoded.Unmarshal(c.AppendTo(nil)); err != nil {
		s.t.Fatal(err)
	}
	res, err := b.Apply(c.Group, position+1, &decoded)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		s.t.Fatal(err)
	}
	return res
}

func (s *script) view() state.View { return state.NewView(s.db) }

// args reads the arguments of a line of a script.
type args struct {
	t *testing.T
	d *datadriven.TestData
}

func (a args) has(key string) bool { return a.d.HasArg(key) }

func (a args) str(key string) string {
	for _, arg := range a.d.CmdArgs {
		if arg.Key == key && len(arg.Vals) > 0 {
			v := arg.Vals[0]
			if u, err := strconv.Unquote(`"` + v + `"`); err == nil {
				return u // so that scripts can write \x00
			}
			return v
		}
	}
	return ""
}

func (a args) num(key string, or uint64) uint64 {
	v := a.str(key)
	if v == "" {
		return or
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		a.t.Fatal(err)
	}
	return n
}

func (a args) list(key string) []string {
	for _, arg := range a.d.CmdArgs {
		if arg.Key == key {
			return arg.Vals
		}
	}
	return nil
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	a := args{t, d}
	s.t = t
	s.stamp = a.num("stamp", s.stamp)
	if out, ok := s.runRead(d.Cmd, a); ok {
		return out
	}
	c := s.command(d.Cmd, a)
	if c == nil {
		t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
	}
	c.Epoch = a.num("epoch", s.epoch)
	if c.Settings == 0 {
		c.Settings = a.num("settings", 1)
	}
	if r := a.str("request"); r != "" {
		c.Request = id16(r)
	}
	return s.print(s.apply(c))
}

func (s *script) print(res *metadata.Result) string {
	var b strings.Builder
	if res.Rejected != nil {
		return fmt.Sprintf("rejected: %s\n", metadata.RejectionCode(res.Rejected))
	}
	fmt.Fprintf(&b, "ok order=%d", res.Order)
	if res.Replaced {
		b.WriteString(" replaced")
	}
	for _, k := range res.Deleted {
		switch {
		case k.Rejected != nil:
			fmt.Fprintf(&b, "\n  rejected: %s", metadata.RejectionCode(k.Rejected))
		case k.Existed:
			b.WriteString("\n  deleted")
		default:
			b.WriteString("\n  was not there")
		}
	}
	if res.Version != nil {
		fmt.Fprintf(&b, "\n  version %s", s.version(res.Version))
	}
	return b.String() + "\n"
}

func (s *script) version(v *metadata.Version) string {
	out := fmt.Sprintf("order=%d etag=%s bytes=%d stored=%d", v.Order, v.ETag, v.Bytes, v.StoredBytes)
	if v.Part != nil {
		out += " part=" + s.name(v.Part.ID)
	}
	if v.List != nil {
		out += fmt.Sprintf(" list=%s parts=%d", s.name(v.List.ID), v.List.Parts)
	}
	return out
}

// body makes a part with its rows. Chunked bodies are sealed into 10 bytes
// more.
func (s *script) body(a args, name string) (p metadata.Part, chunks []metadata.Chunk, inline []byte) {
	p = metadata.Part{Number: uint32(a.num("number", 1)), ID: s.id(name), Bytes: int64(a.num("bytes", 100))}
	switch kind := a.str("body"); kind {
	case "empty":
		p.Body, p.Bytes = metadata.BodyEmpty, 0
	case "", "chunks":
		p.Body, p.SealedBytes = metadata.BodyChunks, p.Bytes+10
		n := int64(a.num("chunks", 1))
		for i := range n {
			c := metadata.Chunk{No: uint32(i), ID: s.id(fmt.Sprintf("%s.%d", name, i)), Scheme: metadata.NewScheme(4, 2), Bytes: p.SealedBytes / n}
			if i == n-1 {
				c.Bytes = p.SealedBytes - p.SealedBytes/n*i
			}
			chunks = append(chunks, c)
		}
	default:
		p.Body, p.Bytes, p.SealedBytes = metadata.BodyInline, int64(len(kind)), int64(len(kind))
		inline = []byte(kind)
	}
	return p, chunks, inline
}

func (s *script) command(name string, a args) *metadata.Command {
	if c := s.rootCommand(name, a); c != nil {
		return c
	}
	b := metadata.BucketID(s.id(orElse(a.str("bucket"), "b")))
	c := &metadata.Command{Group: 1}
	conditions := metadata.WriteConditions{IfNoneMatch: a.has("if-none-match"), IfMatch: a.str("if-match")}
	switch name {
	case "open-bucket":
		c.Kind, c.Settle = metadata.KindOpenBucket, &metadata.Settings{Bucket: b, Name: "b"}
	case "put-settings":
		c.Kind, c.Settle = metadata.KindPutSettings, &metadata.Settings{
			Bucket: b, Name: "b", Epoch: a.num("to", 0), Compression: metadata.Compression(a.num("compression", 0))}
	case "close-bucket":
		c.Kind, c.Settle = metadata.KindCloseBucket, &metadata.Settings{Bucket: b}
	case "purge-bucket":
		c.Kind, c.Settle = metadata.KindPurgeBucket, &metadata.Settings{Bucket: b}
	case "put":
		p, chunks, inline := s.body(a, a.str("part"))
		v := metadata.Version{Null: true, ETag: a.str("etag"), Bytes: p.Bytes, Part: &p}
		put := &metadata.CommitVersion{Bucket: b, Key: a.str("key"), Version: v, Chunks: chunks, Inline: inline, Conditions: conditions}
		for _, no := range a.list("short") {
			n, _ := strconv.Atoi(no)
			put.Short = append(put.Short, metadata.Short{ChunkNo: uint32(n), Missing: 4, Margin: 1})
		}
		c.Kind, c.CommitVersion = metadata.KindCommitVersion, put
	case "take":
		v := metadata.Version{Null: true, ETag: a.str("etag")}
		c.Kind, c.CommitVersion = metadata.KindCommitVersion, &metadata.CommitVersion{Bucket: b, Key: a.str("key"), Version: v,
			Take: a.num("order", 0), Conditions: conditions}
	case "delete":
		c.Kind, c.Delete = metadata.KindDeleteVersions, &metadata.DeleteVersions{Bucket: b}
		for _, k := range a.list("keys") {
			c.Delete.Keys = append(c.Delete.Keys, metadata.DeleteKey{Key: k, VersionID: a.str("version"), Conditions: metadata.DeleteConditions{
				IfMatch: a.str("if-match"), ModifiedUnix: int64(a.num("if-modified", 0)), HasBytes: a.has("if-bytes"), Bytes: int64(a.num("if-bytes", 0))}})
		}
	default:
		return s.uploadCommand(name, a, b, c, conditions)
	}
	return c
}

func orElse(s, or string) string {
	if s == "" {
		return or
	}
	return s
}

func (s *script) uploadCommand(name string, a args, b metadata.BucketID, c *metadata.Command, w metadata.WriteConditions) *metadata.Command {
	id := metadata.UploadID(s.id(a.str("upload")))
	switch name {
	case "create-upload":
		c.Kind, c.CreateUpload = metadata.KindCreateUpload, &metadata.CreateUpload{Bucket: b, Upload: metadata.Upload{ID: id, Key: a.str("key")}}
	case "put-part":
		p, chunks, inline := s.body(a, a.str("part"))
		c.Kind, c.CommitPart = metadata.KindCommitPart, &metadata.CommitPart{
			Bucket: b, Key: a.str("key"), Upload: id, Part: p, Chunks: chunks, Inline: inline}
	case "complete":
		c.Kind = metadata.KindComplete
		c.Complete = &metadata.Complete{Bucket: b, Key: a.str("key"), Upload: id, Conditions: w,
			Version: metadata.Version{Null: true, ETag: a.str("etag"), Bytes: int64(a.num("bytes", 0))}}
		c.Complete.ListHash = sha256.Sum256([]byte(strings.Join(a.list("parts"), ",")))
		list := &metadata.PartList{ID: id}
		offset := int64(0)
		for i, p := range a.list("parts") { // number:part:bytes
			f := strings.Split(p, ":")
			n, _ := strconv.Atoi(f[0])
			bytes, _ := strconv.ParseInt(f[2], 10, 64)
			if i%metadata.PartsPerPage == 0 {
				list.Pages = append(list.Pages, metadata.PartPage{FirstNumber: uint32(n), Offset: offset})
			}
			offset += bytes
			list.Parts++
			c.Complete.Parts = append(c.Complete.Parts, metadata.PartRef{Number: uint32(n), ID: s.id(f[1])})
		}
		c.Complete.Version.List, c.Complete.Version.Bytes = list, offset
	case "abort":
		c.Kind, c.Abort = metadata.KindAbortUpload, &metadata.AbortUpload{Bucket: b, Key: a.str("key"), Upload: id}
	case "drop-trash":
		r := metadata.TrashRef{Order: a.num("order", 0), Bucket: b, Done: a.has("done")}
		if a.has("upload") {
			r.List = id
		}
		for _, p := range a.list("parts") {
			number, part, _ := strings.Cut(p, ":")
			n, _ := strconv.Atoi(number)
			r.Parts = append(r.Parts, metadata.PartRef{Number: uint32(n), ID: s.id(part)})
		}
		c.Kind, c.DropTrash = metadata.KindDropTrash, &metadata.DropTrash{Rows: []metadata.TrashRef{r}}
	case "put-short":
		c.Kind, c.PutShort = metadata.KindPutShort, &metadata.PutShort{Rows: []metadata.Short{{
			Bucket: b, Part: s.id(a.str("part")), ChunkNo: uint32(a.num("chunk", 0)), Missing: uint32(a.num("missing", 0))}}}
	default:
		return s.manifestCommand(name, a, b, c)
	}
	return c
}

func (s *script) rootCommand(name string, a args) *metadata.Command {
	c := &metadata.Command{}
	k := &metadata.Bucket{Name: a.str("name"), ID: s.id(orElse(a.str("id"), a.str("name"))), Group: 1}
	switch name {
	case "fence":
		c.Kind, c.Fence, c.Group = metadata.KindFence, &metadata.Fence{Floor: a.num("floor", 0)}, 1
		for _, e := range a.list("living") {
			n, _ := strconv.ParseUint(e, 10, 64)
			c.Fence.Living = append(c.Fence.Living, n)
		}
	case "clock":
		c.Kind, c.Clock, c.Group = metadata.KindClock, &metadata.Clock{ElapsedMicros: a.num("elapsed", 0)}, 1
	case "push-pgs":
		c.Kind, c.PGs, c.Group = metadata.KindPushPGs, &metadata.PGTable{Version: a.num("version", 0)}, 1
		for i := range a.num("groups", 0) {
			c.PGs.Groups = append(c.PGs.Groups, metadata.PG{ID: uint32(i)})
		}
	case "put-drives":
		c.Kind, c.Drives = metadata.KindPutDrives, &metadata.DriveTable{Version: a.num("version", 0)}
	case "raise":
		c.Kind, c.Clusters, c.Group = metadata.KindClusters, &metadata.ClusterVersion{Version: uint16(a.num("version", 0))}, uint32(a.num("group", 1))
	case "put-stores":
		c.Kind, c.Stores = metadata.KindPutStores, &metadata.StoreTable{Version: a.num("version", 0)}
		for _, f := range a.list("stores") { // replica:role:id
			c.Stores.Stores = append(c.Stores.Stores, s.store(f))
		}
	case "put-incarnation":
		c.Kind, c.Incarnation = metadata.KindPutIncarnation, &metadata.Incarnation{Number: a.num("number", 0), Collection: a.has("collection")}
	case "put-account":
		c.Kind, c.Account = metadata.KindPutAccount, &metadata.Account{ID: s.id(a.str("id")), Name: a.str("name")}
	case "put-access-key":
		c.Kind, c.AccessKey = metadata.KindPutAccessKey, &metadata.AccessKey{ID: a.str("id")}
	case "delete-access-key":
		c.Kind, c.AccessKey = metadata.KindDeleteAccessKey, &metadata.AccessKey{ID: a.str("id")}
	case "reserve-bucket":
		c.Kind, c.Bucket = metadata.KindReserveBucket, k
	case "activate-bucket":
		c.Kind, c.Bucket = metadata.KindActivateBucket, k
	case "retire-bucket":
		c.Kind, c.Bucket = metadata.KindRetireBucket, k
	case "forget-bucket":
		c.Kind, c.Bucket = metadata.KindForgetBucket, k
	default:
		return nil
	}
	return c
}

func (s *script) store(text string) metadata.Store {
	f := strings.Split(text, ":")
	n, err := strconv.ParseUint(f[0], 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	roles := map[string]metadata.StoreRole{"voter": metadata.StoreVoter, "learner": metadata.StoreLearner, "gone": metadata.StoreGone}
	row := metadata.Store{Replica: n, Role: roles[f[1]], Place: "/" + f[2]}
	if f[2] != "" {
		row.ID = s.id(f[2])
	}
	return row
}

// runRead answers the lines of a script that only read.
func (s *script) runRead(name string, a args) (string, bool) {
	v := s.view()
	var out string
	var err error
	switch name {
	case "get":
		out, err = s.get(a)
	case "usage":
		var u metadata.Usage
		u, err = v.Usage(ref)
		out = fmt.Sprintf("objects=%d versions=%d bytes=%d stored=%d uploads=%d upload-bytes=%d\n",
			u.Objects, u.Versions, u.Bytes, u.StoredBytes, u.Uploads, u.UploadBytes)
	case "trash":
		out, err = s.trash()
	case "parts":
		var parts []metadata.Part
		parts, err = v.Parts(ref, s.id(a.str("upload")), uint32(a.num("after", 0)), int(a.num("limit", 100)))
		for _, p := range parts {
			out += fmt.Sprintf("%d %s sealed=%d\n", p.Number, s.name(p.ID), p.SealedBytes)
		}
	case "page":
		var parts []metadata.Part
		parts, err = v.ListPage(ref, s.id(a.str("list")), int(a.num("page", 0)))
		for _, p := range parts {
			out += fmt.Sprintf("%d %s\n", p.Number, s.name(p.ID))
		}
	case "completed":
		var ver *metadata.Version
		if ver, _, err = v.Completed(ref, a.str("key"), s.id(a.str("upload"))); err == nil {
			out = s.version(ver) + "\n"
		}
	case "lookup":
		out, err = s.lookup(a)
	case "short":
		var rows []metadata.Short
		rows, err = v.Short(1, nil, 100)
		for _, r := range rows {
			out += fmt.Sprintf("%s.%d missing=%b since=%d\n", s.name(r.Part), r.ChunkNo, r.Missing, r.Since)
		}
	case "head":
		var h metadata.Head
		h, err = v.Head(uint32(a.num("group", 1)))
		out = fmt.Sprintf("order=%d clock=%d expiry=%d inline=%d buckets=%d\n", h.Order, h.ClockMicros, h.Expiry, h.InlineBytes, h.Buckets)
	case "buckets":
		var ks []metadata.Bucket
		ks, err = v.Buckets(a.str("prefix"), a.str("after"), int(a.num("limit", 100)))
		for _, k := range ks {
			out += fmt.Sprintf("%s id=%s state=%d order=%d\n", k.Name, s.name(k.ID), k.State, k.Order)
		}
	case "version":
		var n uint16
		n, err = v.CommandVersion(uint32(a.num("group", 1)))
		out = fmt.Sprintf("%d\n", n)
	case "stores":
		var t *metadata.StoreTable
		t, err = v.Stores()
		out = fmt.Sprintf("version %d\n", t.Version)
		for _, r := range t.Stores {
			out += fmt.Sprintf("%d %s %s %s\n", r.Replica, r.Role, s.name(r.ID), r.Place)
		}
	case "rows":
		out = s.rows(uint32(a.num("group", 1)))
	default:
		var known bool
		if out, known, err = s.runReadManifests(name, a); !known {
			return "", false
		}
	}
	if err != nil {
		if !metadata.IsRejection(err) {
			s.t.Fatal(err)
		}
		return "rejected: " + metadata.RejectionCode(err) + "\n", true
	}
	return orElse(out, "nothing\n"), true
}

func (s *script) get(a args) (string, error) {
	o, err := s.view().Open(ref, a.str("key"), a.str("version"))
	if err != nil {
		return "", err
	}
	out := s.version(&o.Version)
	if o.Inline != nil {
		out += fmt.Sprintf(" inline=%q", o.Inline)
	}
	for _, c := range o.Chunks {
		out += fmt.Sprintf(" %d:%d", c.No, c.Bytes)
	}
	return out + "\n", nil
}

func (s *script) trash() (string, error) {
	rows, err := s.view().Trash(1, 0, 100)
	if err != nil {
		return "", err
	}
	var out string
	for i := range rows {
		t := &rows[i]
		kind := map[metadata.TrashKind]string{metadata.TrashPart: "part", metadata.TrashList: "list", metadata.TrashUpload: "upload"}[t.Kind]
		out += fmt.Sprintf("order=%d %s bytes=%d:", t.Order, kind, t.Bytes)
		parts, err := s.view().TrashParts(1, t, 100)
		if err != nil {
			return "", err
		}
		for _, p := range parts {
			out += fmt.Sprintf(" %d:%s", p.Number, s.name(p.ID))
		}
		out += "\n"
	}
	return out, nil
}

func (s *script) lookup(a args) (string, error) {
	res, err := s.view().Lookup(1, []metadata.LookupRef{{
		Bucket: ref.ID, Part: s.id(a.str("part")), ChunkNo: uint32(a.num("chunk", 0)), Chunk: s.id(a.str("chunk-id"))}})
	if err != nil {
		return "", err
	}
	f := res.Found[0]
	if !f.Referenced {
		return "not referenced\n", nil
	}
	return fmt.Sprintf("referenced by key=%s order=%d list=%s\n", f.Owner.Key, f.Owner.Order, s.name(f.Owner.List)), nil
}

// rows counts the rows of a group by table.
func (s *script) rows(group uint32) string {
	lower := binary.BigEndian.AppendUint32(nil, group)
	iter, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: binary.BigEndian.AppendUint32(nil, group+1)})
	if err != nil {
		s.t.Fatal(err)
	}
	var out string
	var table byte
	n := 0
	flush := func() {
		if n > 0 {
			out += fmt.Sprintf("%#02x: %d\n", table, n)
		}
		n = 0
	}
	for iter.First(); iter.Valid(); iter.Next() {
		if iter.Key()[4] != table {
			flush()
			table = iter.Key()[4]
		}
		n++
	}
	flush()
	if err := errors.Join(iter.Error(), iter.Close()); err != nil {
		s.t.Fatal(err)
	}
	return out
}

// dump returns every row of a store.
func dump(t testing.TB, db *pebble.DB) []byte {
	t.Helper()
	iter, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for iter.First(); iter.Valid(); iter.Next() {
		fmt.Fprintf(&out, "%x = %x\n", iter.Key(), iter.Value())
	}
	if err := errors.Join(iter.Error(), iter.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
