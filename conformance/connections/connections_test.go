// Package connections breaks connections to a server wherever they can break:
// T-CONN of the reliability plan. Clients reset them, end them or leave them half
// open at random bytes of a request or of an answer. Nothing of what was not
// sent to its end can be seen, others are served meanwhile, and afterwards the
// server holds no more connections, goroutines, shards and memory than before.
//
// RUCHE_BIN names the ruche program; without it the tests are skipped, or fail
// if RUCHE_REQUIRE is 1.
package connections

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/ruche-storage/ruche/bench/process"
)

const (
	bucket  = "connections"
	breaks  = 400 // connections of each kind
	most    = 400_000
	patient = time.Minute // until everything is as before
)

// server is one to break connections to.
type server struct {
	*process.Process
	core *minio.Core
	host string
}

func start(t *testing.T) *server {
	t.Helper()
	bin := os.Getenv("RUCHE_BIN")
	if bin == "" {
		if os.Getenv("RUCHE_REQUIRE") == "1" {
			t.Fatal("RUCHE_BIN is not set")
		}
		t.Skip("RUCHE_BIN is not set")
	}
	p, err := process.Start(t.Context(), process.Options{Bin: bin, Data: filepath.Join(t.TempDir(), "data"), Args: []string{"--ballast", "0", "--preallocate", "0"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	s := &server{Process: p, host: strings.TrimPrefix(p.Endpoint, "http://")}
	if s.core, err = minio.NewCore(s.host, &minio.Options{Creds: credentials.NewStaticV4(p.AccessKey, p.SecretKey, ""), Region: "fr-metro", BucketLookup: minio.BucketLookupPath}); err != nil {
		t.Fatal(err)
	}
	if err := s.core.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	return s
}

// metrics returns what the server says of itself; values of one name are added.
func (s *server) metrics(ctx context.Context) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Admin+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	found := make(map[string]float64)
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if i := strings.LastIndex(lines.Text(), "} "); i >= 0 {
			name, value = lines.Text()[:strings.Index(lines.Text(), "{")], lines.Text()[i+2:]
		}
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil {
			found[name] += v
		}
	}
	return found, lines.Err()
}

// ending is how a client ends a connection.
type ending int

const (
	reset ending = iota
	finish
	leave // half open: nothing comes any more, and nobody says so
	endings
)

// broken is a connection on which a part of a request was sent.
type broken struct {
	conn *net.TCPConn
	key  string
	all  bool // the whole request was sent
}

// send sends the first bytes of a request; a negative number all of it.
func (s *server) send(ctx context.Context, request []byte, n int) (*net.TCPConn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.host)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(request[:n]); err != nil && n == len(request) {
		return nil, errors.Join(err, conn.Close())
	}
	return conn.(*net.TCPConn), nil
}

// end ends a connection.
func (b *broken) end(how ending) error {
	switch how {
	case reset:
		return errors.Join(b.conn.SetLinger(0), b.conn.Close())
	case finish:
		return b.conn.Close()
	}
	return nil
}

// request words a request to a presigned address.
func request(method string, u *url.URL, body []byte, chunked bool) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, u.RequestURI(), u.Host)
	switch {
	case chunked:
		fmt.Fprintf(&b, "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	case method == http.MethodPut:
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	default:
		b.WriteString("\r\n")
	}
	return b.Bytes()
}

// content returns the bytes that a key was written with.
func content(key string, n int) []byte {
	b := make([]byte, n)
	var seed [32]byte
	copy(seed[:], key)
	rand.NewChaCha8(seed).Read(b)
	return b
}

// TestBrokenConnections is T-CONN.
func TestBrokenConnections(t *testing.T) {
	s := start(t)
	ctx := t.Context()
	if _, err := s.core.Client.PutObject(ctx, bucket, "whole", bytes.NewReader(content("whole", most)), most, minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	before, err := s.metrics(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex // guards left and sent
	var left []*broken
	sent := make(map[string]int) // lengths of the bodies that were sent whole
	var clients sync.WaitGroup
	for i := range 3 * breaks {
		clients.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 1))
			how := ending(rng.IntN(int(endings)))
			b, n, err := s.breakOne(ctx, i, rng, how)
			if err != nil {
				t.Errorf("connection %d: %v", i, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if b.all {
				sent[b.key] = n
			}
			if how == leave {
				left = append(left, b)
			}
		})
		if i%64 == 63 {
			clients.Wait()
		}
	}
	clients.Wait()
	s.serves(t, "beside half-open connections")
	for _, b := range left {
		if err := b.end(reset); err != nil {
			t.Error(err)
		}
	}
	s.sees(t, sent)
	s.settles(t, before)
	s.serves(t, "afterwards")
	t.Logf("%d connections broken, %d of them half open, %d bodies sent whole", 3*breaks, len(left), len(sent))
}

// breakOne breaks one connection: of a PUT, of a PUT in chunks, or of a GET.
func (s *server) breakOne(ctx context.Context, i int, rng *rand.Rand, how ending) (*broken, int, error) {
	b := &broken{key: fmt.Sprintf("broken/%04d", i)}
	n := rng.IntN(most)
	var req []byte
	if i%3 == 2 {
		u, err := s.core.PresignedGetObject(ctx, bucket, "whole", time.Hour, nil)
		if err != nil {
			return nil, 0, err
		}
		req = request(http.MethodGet, u, nil, false)
	} else {
		u, err := s.core.PresignedPutObject(ctx, bucket, b.key, time.Hour)
		if err != nil {
			return nil, 0, err
		}
		req = request(http.MethodPut, u, content(b.key, n), i%3 == 1)
	}
	cut := rng.IntN(len(req))
	if i%10 == 0 || i%3 == 2 && rng.IntN(2) == 0 {
		cut = len(req)
	}
	var err error
	if b.conn, err = s.send(ctx, req, cut); err != nil {
		return nil, 0, err
	}
	b.all = cut == len(req) && i%3 != 2
	if i%3 == 2 && cut == len(req) { // some of the answer is read
		_, _ = io.CopyN(io.Discard, b.conn, rng.Int64N(most))
	}
	if how != leave {
		err = b.end(how)
	}
	return b, n, err
}

// serves writes and reads an object as any client would.
func (s *server) serves(t *testing.T, when string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	want := content(when, most)
	if _, err := s.core.Client.PutObject(ctx, bucket, "served", bytes.NewReader(want), most, minio.PutObjectOptions{}); err != nil {
		t.Fatalf("%s: put: %v", when, err)
	}
	if got, err := s.get(ctx, "served"); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%s: read %d bytes: %v", when, len(got), err)
	}
}

func (s *server) get(ctx context.Context, key string) ([]byte, error) {
	body, _, _, err := s.core.GetObject(ctx, bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

// sees compares what is listed with what was sent whole: that may be there, all
// else may not.
func (s *server) sees(t *testing.T, sent map[string]int) {
	t.Helper()
	for o := range s.core.Client.ListObjects(t.Context(), bucket, minio.ListObjectsOptions{Prefix: "broken/", Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		n, ok := sent[o.Key]
		if !ok {
			t.Errorf("%s is there with %d bytes and was never sent to its end", o.Key, o.Size)
			continue
		}
		if got, err := s.get(t.Context(), o.Key); err != nil || !bytes.Equal(got, content(o.Key, n)) {
			t.Errorf("%s: %d bytes of %d: %v", o.Key, len(got), n, err)
		}
	}
}

// settles waits until the server holds what it held before.
func (s *server) settles(t *testing.T, before map[string]float64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	slack := map[string]float64{"go_goroutines": 300, // up to 256 idle ones are kept for later calls
		"process_open_fds": 40, "ruche_s3_requests_in_flight": 0,
		"ruche_drive_pending_bytes": 0, "process_resident_memory_bytes": 256 << 20}
	for {
		now, err := s.metrics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var more []string
		for name, s := range slack {
			if _, known := now[name]; !known {
				t.Fatalf("the server does not say %s", name)
			}
			if now[name] > before[name]+s {
				more = append(more, fmt.Sprintf("%s is %.0f, was %.0f", name, now[name], before[name]))
			}
		}
		if len(more) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("after %v: %s", patient, strings.Join(more, "; "))
		}
	}
}
