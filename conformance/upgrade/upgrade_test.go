package upgrade

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/ruche-storage/ruche/bench/process"
)

var (
	corpusName   = flag.String("corpus", "", "make a corpus of this name")
	corpusCopies = flag.Int("copies", 1, "copies of the metadata of the corpus to be made")
)

const bucket = "golden"

// program returns the path of the program that is tested.
func program(t *testing.T) string {
	t.Helper()
	bin := os.Getenv("RUCHE_BIN")
	if bin == "" {
		if os.Getenv("RUCHE_REQUIRE") == "1" {
			t.Fatal("RUCHE_BIN is not set")
		}
		t.Skip("RUCHE_BIN is not set")
	}
	return bin
}

// machine is a server on a state directory.
type machine struct {
	*process.Process
	*minio.Core
	bin, data string
}

// start starts a server on a state directory that may lie elsewhere than it did,
// at another time.
func start(t *testing.T, bin, data string, drives int, args ...string) *machine {
	t.Helper()
	o := process.Options{Bin: bin, Data: data, Args: append([]string{"--ballast", "0", "--preallocate", "0", "--accept-clock"}, args...)}
	for i := range drives {
		o.Drives = append(o.Drives, filepath.Join(data, fmt.Sprintf("d%d", i+1)))
	}
	p, err := process.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	core, err := minio.NewCore(strings.TrimPrefix(p.Endpoint, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(p.AccessKey, p.SecretKey, ""), Region: "fr-metro", BucketLookup: minio.BucketLookupPath,
	})
	if err != nil {
		t.Fatal(errors.Join(err, p.Stop()))
	}
	return &machine{Process: p, Core: core, bin: bin, data: data}
}

func (m *machine) stop(t *testing.T) {
	t.Helper()
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
}

// version returns which commands the metadata take, and up to which this program
// knows them.
func (m *machine) version(t *testing.T) (now, latest, copies int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), m.bin, "metadata", "status", "--output", "json", "--data", m.data, "--admin", m.Admin)
	cmd.Env = []string{"RUCHE_ROOT_USER=" + m.AccessKey, "RUCHE_ROOT_PASSWORD=" + m.SecretKey}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var status struct {
		Version int `json:"version"`
		Latest  int `json:"latest_version"`
		Voters  int `json:"voters"`
	}
	if err := json.Unmarshal(out, &status); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return status.Version, status.Latest, max(1, status.Voters)
}

// formats reads the format numbers of the files beside drives and metadata.
func formats(t *testing.T, data string) map[string]int {
	t.Helper()
	found := make(map[string]int)
	for _, name := range []string{"cluster.json", "metadata.json"} {
		b, err := os.ReadFile(filepath.Join(data, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		var file struct {
			Format int `json:"format"`
		}
		if err = errors.Join(err, json.Unmarshal(b, &file)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		found[name] = file.Format
	}
	return found
}

// put writes an object and says what it is.
func (m *machine) put(t *testing.T, rng *rand.ChaCha8, key string, n int) object {
	t.Helper()
	body := make([]byte, n)
	if _, err := rng.Read(body); err != nil {
		t.Fatal(err)
	}
	o := object{Key: key, Bytes: int64(n), ContentType: "application/x-" + fmt.Sprint(n%7), Metadata: map[string]string{"Length": fmt.Sprint(n)}}
	info, err := m.PutObject(t.Context(), bucket, key, bytes.NewReader(body), int64(n), "", "",
		minio.PutObjectOptions{ContentType: o.ContentType, UserMetadata: o.Metadata})
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	sum := sha256.Sum256(body)
	o.SHA256, o.ETag = hex.EncodeToString(sum[:]), strings.Trim(info.ETag, `"`)
	return o
}

// check reads an object and compares all that is known of it.
func (m *machine) check(t *testing.T, o *object) {
	t.Helper()
	body, info, _, err := m.GetObject(t.Context(), bucket, o.Key, minio.GetObjectOptions{})
	if err != nil {
		t.Errorf("%s: %v", o.Key, err)
		return
	}
	defer body.Close()
	h := sha256.New()
	n, err := io.Copy(h, body)
	switch {
	case err != nil || n != o.Bytes || hex.EncodeToString(h.Sum(nil)) != o.SHA256:
		t.Errorf("%s: %d bytes of %d, or others: %v", o.Key, n, o.Bytes, err)
	case strings.Trim(info.ETag, `"`) != o.ETag || info.ContentType != o.ContentType:
		t.Errorf("%s: ETag %s, type %s; want %s, %s", o.Key, info.ETag, info.ContentType, o.ETag, o.ContentType)
	}
	for name, value := range o.Metadata {
		if info.UserMetadata[name] != value {
			t.Errorf("%s: metadata %v, want %v", o.Key, info.UserMetadata, o.Metadata)
		}
	}
}

// holds compares a whole store with what it should hold.
func (m *machine) holds(t *testing.T, c *corpus) {
	t.Helper()
	var keys []string
	for i := range c.Objects {
		m.check(t, &c.Objects[i])
		keys = append(keys, c.Objects[i].Key)
	}
	for _, key := range c.Gone {
		_, err := m.StatObject(t.Context(), bucket, key, minio.StatObjectOptions{})
		if minio.ToErrorResponse(err).StatusCode != 404 {
			t.Errorf("%s was deleted: %v", key, err)
		}
	}
	list, err := m.ListObjectsV2(bucket, "", "", "", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, o := range list.Contents {
		listed = append(listed, o.Key)
	}
	if slices.Sort(keys); !slices.Equal(listed, keys) {
		t.Errorf("listed are %v, want %v", listed, keys)
	}
	var open []string
	for u := range m.ListIncompleteUploads(t.Context(), bucket, "", true) {
		if u.Err != nil {
			t.Fatal(u.Err)
		}
		open = append(open, u.Key)
	}
	if !slices.Equal(open, c.Uploads) {
		t.Errorf("uploads of %v are open, want %v", open, c.Uploads)
	}
}

// TestUpgrade is T-UPG: each store that an earlier program has written is served
// from another place, written to, and served again after a restart, and after a
// drive was lost.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	bin := program(t)
	archives, err := filepath.Glob("testdata/*.tar.gz")
	if err != nil || len(archives) < 2 {
		t.Fatalf("corpora: %v, %v", archives, err)
	}
	for _, archive := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(archive), ".tar.gz"), func(t *testing.T) {
			t.Parallel()
			upgrade(t, bin, archive)
		})
	}
}

func upgrade(t *testing.T, bin, archive string) {
	var c corpus
	b, err := os.ReadFile(strings.TrimSuffix(archive, ".tar.gz") + ".json")
	if err = errors.Join(err, json.Unmarshal(b, &c)); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(t.TempDir(), "data")
	if err := errors.Join(os.Mkdir(data, 0o700), unpack(archive, data)); err != nil {
		t.Fatal(err)
	}
	for name, format := range formats(t, data) {
		if c.Formats[name] != format {
			t.Errorf("%s has format %d, the corpus was of %d", name, format, c.Formats[name])
		}
	}
	m := start(t, bin, data, c.Drives)
	now, latest, copies := m.version(t)
	if now < c.Version || latest < now || copies != c.Copies {
		t.Errorf("command version %d of %d, %d copies; the corpus was of %d with %d", now, latest, copies, c.Version, c.Copies)
	}
	m.holds(t, &c)
	rng := rand.NewChaCha8([32]byte{9})
	c.Objects = append(c.Objects, m.put(t, rng, "new/small", 900), m.put(t, rng, "new/large", 300_000))
	c.Objects[0] = m.put(t, rng, c.Objects[0].Key, 40_000)
	if err := m.RemoveObject(t.Context(), bucket, c.Objects[1].Key, minio.RemoveObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Gone = append(c.Gone, c.Objects[1].Key)
	c.Objects = slices.Delete(c.Objects, 1, 2)
	m.holds(t, &c)
	m.stop(t)
	m = start(t, bin, data, c.Drives)
	m.holds(t, &c)
	m.stop(t)
	// What the old and the new program have written is made up for.
	lost := fmt.Sprintf("d%d", c.Drives)
	if err := os.Rename(filepath.Join(data, lost), filepath.Join(t.TempDir(), lost)); err != nil {
		t.Fatal(err)
	}
	m = start(t, bin, data, c.Drives-1)
	m.holds(t, &c)
	m.stop(t)
}

// TestCorpus makes a corpus, if asked to.
func TestCorpus(t *testing.T) {
	if *corpusName == "" {
		t.Skip("-corpus is not given")
	}
	data := filepath.Join(t.TempDir(), "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	c := corpus{Drives: 3, Bucket: bucket}
	m := start(t, program(t), data, c.Drives, "--metadata-replicas", fmt.Sprint(*corpusCopies))
	ctx := t.Context()
	if err := m.MakeBucket(ctx, bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	fill(ctx, t, m, &c)
	m.holds(t, &c)
	c.Version, _, c.Copies = m.version(t)
	out, err := exec.CommandContext(ctx, m.bin, "version").Output()
	if err != nil {
		t.Fatal(err)
	}
	c.Program = strings.TrimSpace(string(out))
	time.Sleep(5 * time.Second) // until manifests are written
	m.stop(t)
	c.Formats = formats(t, data)
	b, err := json.MarshalIndent(&c, "", "  ")
	name := filepath.Join("testdata", *corpusName)
	if err := errors.Join(err, os.MkdirAll("testdata", 0o755), pack(data, name+".tar.gz"), os.WriteFile(name+".json", append(b, '\n'), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// fill writes one of everything.
func fill(ctx context.Context, t *testing.T, m *machine, c *corpus) {
	t.Helper()
	rng := rand.NewChaCha8([32]byte{8})
	for i, n := range []int{0, 1, 900, 1500, 16<<10 + 1, 66_000} {
		key := fmt.Sprintf("key/%d-%d", i, n)
		m.put(t, rng, key, 100+i) // which is overwritten
		c.Objects = append(c.Objects, m.put(t, rng, key, n))
	}
	for _, key := range []string{"gone/key"} {
		m.put(t, rng, key, 17_000)
		if err := m.RemoveObject(ctx, bucket, key, minio.RemoveObjectOptions{}); err != nil {
			t.Fatal(err)
		}
		c.Gone = append(c.Gone, key)
	}
	copied := c.Objects[4]
	copied.Key = "copy of a key/é %"
	if _, err := m.Client.CopyObject(ctx, minio.CopyDestOptions{Bucket: bucket, Object: copied.Key}, minio.CopySrcOptions{Bucket: bucket, Object: c.Objects[4].Key}); err != nil {
		t.Fatal(err)
	}
	c.Objects = append(c.Objects, copied)
	body := bytes.Repeat([]byte("part of an upload "), 1000)
	for _, finish := range []bool{true, false} {
		key := fmt.Sprintf("upload/%v", finish)
		id, err := m.NewMultipartUpload(ctx, bucket, key, minio.PutObjectOptions{ContentType: "text/plain"})
		if err != nil {
			t.Fatal(err)
		}
		part, err := m.PutObjectPart(ctx, bucket, key, id, 1, bytes.NewReader(body), int64(len(body)), minio.PutObjectPartOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if !finish {
			c.Uploads = append(c.Uploads, key)
			continue
		}
		info, err := m.CompleteMultipartUpload(ctx, bucket, key, id, []minio.CompletePart{{PartNumber: 1, ETag: part.ETag}}, minio.PutObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(body)
		c.Objects = append(c.Objects, object{Key: key, Bytes: int64(len(body)), SHA256: hex.EncodeToString(sum[:]), ETag: strings.Trim(info.ETag, `"`), ContentType: "text/plain"})
	}
}
