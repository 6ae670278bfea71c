package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/gateway/sigv4"
)

var now = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// fake answers every interface and notes what it was asked.
type fake struct {
	asked    []string
	err      error
	notReady error
	repeat   int   // how long a backup is
	late     error // of a backup, after its last byte
}

func (f *fake) note(s string) error { f.asked = append(f.asked, s); return f.err }

func (f *fake) Status(context.Context) (*admin.Status, error) {
	return &admin.Status{Version: "v1", Health: admin.Green, Started: now, Summary: []string{"all is well"}}, f.note("status")
}
func (f *fake) Repair(context.Context) (*admin.Repair, error) {
	return &admin.Repair{QueuedChunks: 7}, f.note("repair")
}
func (f *fake) ResumeCollection(context.Context) error { return f.note("resume") }
func (f *fake) Drives(context.Context) ([]admin.Drive, error) {
	return []admin.Drive{{ID: "a", State: admin.DriveOK}}, f.note("drives")
}
func (f *fake) ReplaceDrive(_ context.Context, r *admin.ReplaceRequest) (*admin.Drive, error) {
	return &admin.Drive{ID: "b", Path: r.Path}, f.note("replace " + r.Path + " " + r.Drive)
}
func (f *fake) StartScrub(context.Context) error { return f.note("start scrub") }
func (f *fake) Scrub(context.Context) (*admin.Scrub, error) {
	return &admin.Scrub{Running: true}, f.note("scrub")
}
func (f *fake) Keys(context.Context) ([]admin.Key, error) {
	return []admin.Key{{ID: "root", Root: true}}, f.note("keys")
}
func (f *fake) CreateKey(_ context.Context, r *admin.CreateKeyRequest) (*admin.Key, error) {
	return &admin.Key{ID: "new", Secret: "s", Description: r.Description}, f.note("create " + r.Description)
}
func (f *fake) DeleteKey(_ context.Context, id string) error { return f.note("delete " + id) }
func (f *fake) Keyring(context.Context) (*admin.Keyring, error) {
	return &admin.Keyring{Version: 3}, f.note("keyring")
}
func (f *fake) BackupKeyring(context.Context) (*admin.KeyringBackup, error) {
	return &admin.KeyringBackup{Name: "n", Sealed: []byte{0, 1, 255}}, f.note("backup")
}
func (f *fake) VerifyKeyring(_ context.Context, code string) error { return f.note("verify " + code) }
func (f *fake) Buckets(context.Context) ([]admin.Bucket, error) {
	return []admin.Bucket{{Name: "b"}}, f.note("buckets")
}
func (f *fake) SetBucket(_ context.Context, name string, r *admin.SetBucketRequest) (*admin.Bucket, error) {
	return &admin.Bucket{Name: name, Compression: *r.Compression}, f.note("set " + name)
}
func (f *fake) Metadata(context.Context) (*admin.Metadata, error) {
	return &admin.Metadata{Engine: admin.EngineLocal}, f.note("metadata")
}
func (f *fake) AddCopy(_ context.Context, r *admin.AddCopyRequest) (*admin.Metadata, error) {
	return &admin.Metadata{Voters: 3}, f.note("add copy " + r.Path)
}
func (f *fake) ReplaceCopy(_ context.Context, r *admin.ReplaceCopyRequest) (*admin.Metadata, error) {
	return &admin.Metadata{Voters: 4}, f.note("replace copy " + r.Store + " " + r.Path)
}
func (f *fake) RemoveCopy(_ context.Context, r *admin.CopyRequest) (*admin.Metadata, error) {
	return &admin.Metadata{Voters: 5}, f.note("remove copy " + r.Store)
}
func (f *fake) TransferCopy(_ context.Context, r *admin.CopyRequest) (*admin.Metadata, error) {
	return &admin.Metadata{Voters: 6}, f.note("transfer copy " + r.Store)
}
func (f *fake) BackupMetadata(_ context.Context, w io.Writer) error {
	if f.err == nil {
		io.WriteString(w, strings.Repeat("metadata", f.repeat))
	}
	if f.late != nil {
		f.note("back up")
		return f.late
	}
	return f.note("back up")
}
func (f *fake) Ready(context.Context) error { return f.notReady }
func (f *fake) Writable(_ context.Context, maintenance bool) error {
	if maintenance {
		return errors.New("no drive to spare")
	}
	return nil
}

// start serves a fake on a listener of its own.
func start(t *testing.T, f *fake, change func(*admin.Options)) *httptest.Server {
	t.Helper()
	o := admin.Options{
		Cluster: f, Drives: f, Scrubs: f, Keys: f, Keyrings: f, Buckets: f, Copies: f, Backups: f, Health: f,
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ruche_up 1\n") }),
		Lookup: func(_ context.Context, id string) (sigv4.Credentials, error) {
			if id != "root" {
				return sigv4.Credentials{}, sigv4.ErrUnknownKey
			}
			return sigv4.Credentials{Secret: "secret"}, nil
		},
		Now: func() time.Time { return now },
		Log: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&o)
	}
	s := httptest.NewServer(admin.New(o))
	t.Cleanup(s.Close)
	return s
}

func client(s *httptest.Server, key, secret string) *admin.Client {
	return admin.NewClient(s.URL, key, secret, nil, func() time.Time { return now })
}

func TestEveryCallReachesItsPart(t *testing.T) {
	t.Parallel()
	f := &fake{}
	c := client(start(t, f, nil), "root", "secret")
	ctx := t.Context()
	zstd := "zstd"
	var got []any
	add := func(v any, err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
		got = append(got, v)
	}
	status, err := c.Status(ctx)
	add(status.Summary[0], err)
	repair, err := c.Repair(ctx)
	add(repair.QueuedChunks, err)
	repair, err = c.ResumeCollection(ctx)
	add(repair.QueuedChunks, err)
	drives, err := c.Drives(ctx)
	add(drives[0].ID, err)
	replaced, err := c.ReplaceDrive(ctx, &admin.ReplaceRequest{Path: "/srv/d1", Drive: "x"})
	add(replaced.Path, err)
	scrub, err := c.Scrub(ctx)
	add(scrub.Running, err)
	scrub, err = c.StartScrub(ctx)
	add(scrub.Running, err)
	keys, err := c.Keys(ctx)
	add(keys[0].Root, err)
	key, err := c.CreateKey(ctx, &admin.CreateKeyRequest{Description: "d"})
	add(key.Secret, err)
	add(nil, c.DeleteKey(ctx, "a/b c"))
	ring, err := c.Keyring(ctx)
	add(ring.Version, err)
	backup, err := c.BackupKeyring(ctx)
	add(string(backup.Sealed), err)
	ring, err = c.VerifyKeyring(ctx, "code")
	add(ring.Version, err)
	buckets, err := c.Buckets(ctx)
	add(buckets[0].Name, err)
	bucket, err := c.SetBucket(ctx, "logs", &admin.SetBucketRequest{Compression: &zstd})
	add(bucket.Compression, err)
	copies, err := c.Metadata(ctx)
	add(copies.Engine, err)
	copies, err = c.AddCopy(ctx, &admin.AddCopyRequest{Path: "/srv/d7"})
	add(copies.Voters, err)
	copies, err = c.ReplaceCopy(ctx, &admin.ReplaceCopyRequest{Store: "2", Path: "/srv/d8"})
	add(copies.Voters, err)
	copies, err = c.RemoveCopy(ctx, &admin.CopyRequest{Store: "3"})
	add(copies.Voters, err)
	copies, err = c.TransferCopy(ctx, &admin.CopyRequest{Store: "4"})
	add(copies.Voters, err)

	want := []any{"all is well", int64(7), int64(7), "a", "/srv/d1", true, true, true, "s", nil, uint64(3), "\x00\x01\xff", uint64(3), "b", "zstd", "local", 3, 4, 5, 6}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
	wantAsked := []string{"status", "repair", "resume", "repair", "drives", "replace /srv/d1 x", "scrub", "start scrub", "scrub", "keys", "create d", "delete a/b c",
		"keyring", "backup", "verify code", "keyring", "buckets", "set logs",
		"metadata", "add copy /srv/d7", "replace copy 2 /srv/d8", "remove copy 3", "transfer copy 4"}
	if diff := cmp.Diff(wantAsked, f.asked); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}

func TestOnlySignedCallsAreAnswered(t *testing.T) {
	t.Parallel()
	f := &fake{}
	s := start(t, f, nil)
	for name, c := range map[string]*admin.Client{
		"unknown key":  client(s, "other", "secret"),
		"wrong secret": client(s, "root", "wrong"),
		"old signature": admin.NewClient(s.URL, "root", "secret", nil,
			func() time.Time { return now.Add(-time.Hour) }),
	} {
		_, err := c.Status(t.Context())
		if !errors.Is(err, &admin.Error{Code: admin.CodeDenied}) || !strings.Contains(err.Error(), ";") {
			t.Errorf("%s: Status = %v, want a denial with a remedy", name, err)
		}
	}
	// A signature made for S3 is not good here, nor one without a header.
	s3 := &sigv4.Signer{AccessKey: "root", Secret: "secret", Region: "fr-metro"}
	here := &sigv4.Signer{AccessKey: "root", Secret: "secret", Region: admin.SigningRegion}
	for name, sign := range map[string]func(*http.Request) error{
		"no signature":     func(*http.Request) error { return nil },
		"S3's region":      func(r *http.Request) error { return s3.Sign(r, sigv4.EmptySHA256, now) },
		"unsigned payload": func(r *http.Request) error { return here.Sign(r, sigv4.UnsignedPayload, now) },
		"presigned": func(r *http.Request) error {
			u, err := here.Presign(r, time.Minute, now)
			if err == nil {
				r.URL, err = r.URL.Parse(u)
			}
			return err
		},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/admin/v1/status", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := sign(r); err != nil {
			t.Fatal(err)
		}
		reply, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		reply.Body.Close()
		if reply.StatusCode/100 != 4 {
			t.Errorf("%s: %s", name, reply.Status)
		}
	}
	if len(f.asked) != 0 {
		t.Errorf("asked %v", f.asked)
	}
}

// TestABodyThatWasChangedIsRefused sends another body than the one signed.
func TestABodyThatWasChangedIsRefused(t *testing.T) {
	t.Parallel()
	f := &fake{}
	s := start(t, f, nil)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/admin/v1/keys", strings.NewReader(`{"description":"evil"}`))
	if err != nil {
		t.Fatal(err)
	}
	signer := &sigv4.Signer{AccessKey: "root", Secret: "secret", Region: admin.SigningRegion}
	if err := signer.Sign(r, strings.Repeat("ab", 32), now); err != nil {
		t.Fatal(err)
	}
	reply, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	reply.Body.Close()
	if reply.StatusCode/100 != 4 || len(f.asked) != 0 {
		t.Errorf("%s, asked %v", reply.Status, f.asked)
	}
}

func TestErrorsReachTheCaller(t *testing.T) {
	t.Parallel()
	f := &fake{err: &admin.Error{Status: http.StatusConflict, Code: admin.CodeConflict, Message: "m", Remedy: "r"}}
	s := start(t, f, nil)
	_, err := client(s, "root", "secret").Drives(t.Context())
	got, ok := errors.AsType[*admin.Error](err)
	if !ok || *got != *f.err.(*admin.Error) {
		t.Errorf("Drives = %v, want %v", err, f.err)
	}
	f.err = errors.New("disk on fire")
	if _, err := client(s, "root", "secret").Drives(t.Context()); !errors.Is(err, &admin.Error{Code: admin.CodeInternal}) {
		t.Errorf("Drives = %v, want an internal error", err)
	}
}

func TestBadCallsAreRefused(t *testing.T) {
	t.Parallel()
	f := &fake{}
	s := start(t, f, nil)
	signer := &sigv4.Signer{AccessKey: "root", Secret: "secret", Region: admin.SigningRegion}
	for _, tt := range []struct {
		method, path, body string
		want               int
	}{
		{http.MethodPost, "/admin/v1/keys", "{", 400},
		{http.MethodPost, "/admin/v1/keys", `{"descripton":"x"}`, 400},
		{http.MethodPost, "/admin/v1/keys", `{} {}`, 400},
		{http.MethodPost, "/admin/v1/keys", `{"description":"` + strings.Repeat("x", 70_000) + `"}`, 413},
		{http.MethodPost, "/admin/v1/keys", "", 400},
		{http.MethodGet, "/admin/v1/nothing", "", 404},
		{http.MethodDelete, "/admin/v1/status", "", 404},
	} {
		r, err := http.NewRequestWithContext(t.Context(), tt.method, s.URL+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		if err := signer.Sign(r, sha256Hex(tt.body), now); err != nil {
			t.Fatal(err)
		}
		reply, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		var e admin.Error
		err = json.NewDecoder(reply.Body).Decode(&e)
		reply.Body.Close()
		if reply.StatusCode != tt.want || err != nil || e.Code == "" {
			t.Errorf("%s %s %.20q: %s, %+v, %v; want %d", tt.method, tt.path, tt.body, reply.Status, e, err, tt.want)
		}
	}
	if len(f.asked) != 0 {
		t.Errorf("asked %v", f.asked)
	}
}

func get(t *testing.T, url, bearer string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	reply, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply.StatusCode, string(text)
}

func TestMetricsAreOpenOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		open   bool
		token  string
		bearer string
		want   int
	}{
		{"loopback", true, "", "", 200},
		{"elsewhere", false, "", "", 401},
		{"elsewhere, no token configured, empty bearer", false, "", " ", 401},
		{"elsewhere, right token", false, "t0ken", "t0ken", 200},
		{"elsewhere, wrong token", false, "t0ken", "t0kem", 401},
	} {
		s := start(t, &fake{}, func(o *admin.Options) { o.OpenMetrics, o.MetricsToken = tt.open, tt.token })
		if got, _ := get(t, s.URL+"/metrics", tt.bearer); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestHealthPages(t *testing.T) {
	t.Parallel()
	f := &fake{}
	s := start(t, f, nil)
	check := func(path string, want int) {
		t.Helper()
		for _, prefix := range []string{"/health/", "/minio/health/"} {
			if got, text := get(t, s.URL+prefix+path, ""); got != want {
				t.Errorf("%s%s: %d %s, want %d", prefix, path, got, text, want)
			}
		}
	}
	check("live", 200)
	check("ready", 200)
	check("cluster", 200)
	check("cluster?maintenance=true", 503)
	f.notReady = errors.New("stopping")
	check("ready", 503)
	check("live", 200)
}

func TestAnUnreachableServerIsNamed(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.NotFoundHandler())
	c := client(s, "root", "secret")
	if _, err := c.Status(t.Context()); !errors.Is(err, &admin.Error{Code: admin.CodeInternal}) || !strings.Contains(err.Error(), s.URL) {
		t.Errorf("another server: %v", err)
	}
	s.Close()
	if _, err := c.Status(t.Context()); err == nil || !strings.Contains(err.Error(), s.URL) || !strings.Contains(err.Error(), "ruche serve") {
		t.Errorf("no server: %v", err)
	}
}
