// Package memory weighs a server under load: with 1,000 idle connections and 64
// large uploads at a time it has to stay under 600 MiB of resident memory, and
// with 1,000 clients that write slowly and 1,000 that read slowly under 1.2 GiB.
// The server runs with its own setting, which is GOMEMLIMIT=512MiB: who does not
// fit in is told to slow down.
//
// RUCHE_BIN names the ruche program; without it the tests are skipped, or fail
// if RUCHE_REQUIRE is 1. They are skipped with -short.
package memory

import (
	"bufio"
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/sync/errgroup"

	"github.com/ruche-storage/ruche/bench/process"
)

const (
	mib    = 1 << 20
	bucket = "memory"
	region = "fr-metro"

	idleConnections = 1000
	uploads         = 64
	uploadBytes     = 64 * mib
	uploadLimit     = 600 * mib // resident, with the idle connections and the uploads

	slowReaders = 1000
	slowBytes   = 64 * mib         // of the object they read
	slowTime    = 5 * time.Second  // how long they read
	slowLimit   = 1200 * mib       // resident, with the slow readers
	settleLimit = 20 * time.Second // until the server serves as before

	callLimit = 80 * time.Second
	attempts  = 20 // of an upload that is told to slow down
)

// weigh starts a server with default settings for a test.
func weigh(t *testing.T) (*process.Process, *minio.Core) {
	t.Helper()
	bin := os.Getenv("RUCHE_BIN")
	if bin == "" {
		if os.Getenv("RUCHE_REQUIRE") == "1" {
			t.Fatal("RUCHE_BIN is not set")
		}
		t.Skip("RUCHE_BIN is not set")
	}
	if testing.Short() {
		t.Skip("writes gigabytes")
	}
	p, err := process.Start(t.Context(), process.Options{Bin: bin, Data: filepath.Join(t.TempDir(), "data"), Args: []string{"--ballast", "0"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: uploads, ResponseHeaderTimeout: callLimit}
	t.Cleanup(transport.CloseIdleConnections)
	core, err := minio.NewCore(strings.TrimPrefix(p.Endpoint, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(p.AccessKey, p.SecretKey, ""), Region: region,
		Transport: transport, MaxRetries: 1, BucketLookup: minio.BucketLookupPath,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := core.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{Region: region}); err != nil {
		t.Fatal(err)
	}
	return p, core
}

// TestUploads is section 3 of the requirements of the store on one machine.
// The two tests of this package do not run at the same time: each would weigh
// on the other's disk and processors.
func TestUploads(t *testing.T) {
	p, core := weigh(t)
	ctx, cancel := context.WithTimeout(t.Context(), callLimit)
	defer cancel()
	connections := idle(t, p.Endpoint, idleConnections)
	empty, err := process.ReadMemory(p.PID)
	if err != nil {
		t.Fatal(err)
	}
	if err := process.ResetPeak(p.PID); err != nil {
		t.Fatal(err)
	}

	data := make([]byte, uploadBytes)
	rand.NewChaCha8([32]byte{1}).Read(data)
	sum := md5.Sum(data)
	want := hex.EncodeToString(sum[:])
	var slowed atomic.Int64
	begin := time.Now()
	var g errgroup.Group
	for i := range uploads {
		g.Go(func() error {
			info, err := upload(ctx, core, fmt.Sprintf("upload-%02d", i), data, &slowed)
			if err == nil && strings.Trim(info.ETag, `"`) != want {
				err = fmt.Errorf("upload %d: ETag %s, want %s", i, info.ETag, want)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begin)
	weight, err := process.ReadMemory(p.PID)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d idle connections: %d MiB; with %d uploads of 64 MiB at a time, %v, %d times told to slow down: peak %d MiB, then %d MiB",
		idleConnections, empty.Resident/mib, uploads, took.Round(time.Millisecond), slowed.Load(), weight.Peak/mib, weight.Resident/mib)
	if weight.Peak > uploadLimit {
		t.Errorf("peak of resident memory %d MiB, want at most %d", weight.Peak/mib, uploadLimit/mib)
	}
	stillThere(t, connections)
}

// upload puts one object, again if the server says that it is busy.
func upload(ctx context.Context, core *minio.Core, key string, data []byte, slowed *atomic.Int64) (minio.UploadInfo, error) {
	for attempt := 1; ; attempt++ {
		info, err := core.PutObject(ctx, bucket, key, bytes.NewReader(data), int64(len(data)), "", "", minio.PutObjectOptions{})
		var reply minio.ErrorResponse
		if !errors.As(err, &reply) || reply.StatusCode != http.StatusServiceUnavailable || attempt == attempts {
			return info, err
		}
		slowed.Add(1)
		select {
		case <-ctx.Done():
			return info, context.Cause(ctx)
		case <-time.After(time.Duration(attempt) * 100 * time.Millisecond):
		}
	}
}

// idle opens connections, makes one request over each, and keeps them.
func idle(t *testing.T, endpoint string, n int) []net.Conn {
	t.Helper()
	connections := make([]net.Conn, n)
	for i := range connections {
		conn := dial(t, endpoint)
		connections[i] = conn
		if err := ping(conn); err != nil {
			t.Fatalf("idle connection %d: %v", i, err)
		}
	}
	return connections
}

func dial(t *testing.T, endpoint string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(endpoint, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// ping makes a request that needs no signature over a connection.
func ping(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "GET /health/live HTTP/1.1\r\nHost: ruche\r\n\r\n"); err != nil {
		return err
	}
	reply, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, reply.Body)
	if err == nil && reply.StatusCode != http.StatusOK {
		err = fmt.Errorf("/health/live answers %s", reply.Status)
	}
	return errors.Join(err, reply.Body.Close())
}

// stillThere checks that the server has kept most idle connections: closing
// them would be a way to save memory that clients notice.
func stillThere(t *testing.T, connections []net.Conn) {
	t.Helper()
	var gone int
	for _, conn := range connections {
		if ping(conn) != nil {
			gone++
		}
	}
	if gone > len(connections)/100 {
		t.Errorf("%d of %d idle connections are gone", gone, len(connections))
	}
}

// TestSlowReaders lets many clients read large objects slowly, and go away.
func TestSlowReaders(t *testing.T) {
	p, core := weigh(t)
	data := make([]byte, slowBytes)
	rand.NewChaCha8([32]byte{2}).Read(data)
	var slowed atomic.Int64
	if _, err := upload(t.Context(), core, "slow", data, &slowed); err != nil {
		t.Fatal(err)
	}
	link, err := core.PresignedGetObject(t.Context(), bucket, "slow", time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := process.ResetPeak(p.PID); err != nil {
		t.Fatal(err)
	}
	connections := make([]net.Conn, slowReaders)
	for i := range connections {
		connections[i] = dial(t, p.Endpoint)
	}
	ctx, cancel := context.WithTimeout(t.Context(), slowTime)
	defer cancel()
	var served, busy, read atomic.Int64
	var wg sync.WaitGroup
	for i, conn := range connections {
		wg.Go(func() {
			n, status, err := readSlowly(ctx, conn, link, data)
			read.Add(n)
			switch {
			case err != nil:
				t.Errorf("slow reader %d: %v", i, err)
			case status == http.StatusOK:
				served.Add(1)
			case status == http.StatusServiceUnavailable:
				busy.Add(1)
			default:
				t.Errorf("slow reader %d: status %d", i, status)
			}
		})
	}
	wg.Wait()
	weight, err := process.ReadMemory(p.PID)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d slow readers: %d served, %d told to slow down, %d MiB read, peak %d MiB", slowReaders, served.Load(), busy.Load(), read.Load()/mib, weight.Peak/mib)
	if weight.Peak > slowLimit {
		t.Errorf("peak of resident memory %d MiB, want at most %d", weight.Peak/mib, slowLimit/mib)
	}
	if served.Load() == 0 {
		t.Error("nobody was served")
	}
	for _, conn := range connections {
		conn.Close()
	}
	// What the readers held is free again soon after they are gone.
	ctx, cancel = context.WithTimeout(t.Context(), settleLimit)
	defer cancel()
	if _, err := upload(ctx, core, "after", data, &slowed); err != nil {
		t.Errorf("upload after the slow readers: %v", err)
	}
	body, _, _, err := core.GetObject(ctx, bucket, "after", minio.GetObjectOptions{})
	if err != nil {
		t.Fatalf("read after the slow readers: %v", err)
	}
	defer body.Close()
	if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read after the slow readers: %d bytes, %v", len(got), err)
	}
}

// readSlowly asks for an object and reads 4 KiB of it every 50 ms, which have
// to be the right ones, until the time is over.
func readSlowly(ctx context.Context, conn net.Conn, link *url.URL, want []byte) (n int64, status int, err error) {
	if err := conn.SetDeadline(time.Now().Add(slowTime + 30*time.Second)); err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", link.RequestURI(), link.Host); err != nil {
		return 0, 0, err
	}
	reply, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, 0, err
	}
	// The connection is closed with the rest of the body unread.
	if reply.StatusCode != http.StatusOK {
		return 0, reply.StatusCode, nil
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	buffer := make([]byte, 4<<10)
	for {
		got, err := io.ReadFull(reply.Body, buffer)
		if err != nil {
			return n, reply.StatusCode, fmt.Errorf("after %d bytes: %w", n, err)
		}
		if !bytes.Equal(buffer[:got], want[n:n+int64(got)]) {
			return n, reply.StatusCode, fmt.Errorf("wrong bytes after %d", n)
		}
		n += int64(got)
		select {
		case <-ctx.Done():
			return n, reply.StatusCode, nil
		case <-tick.C:
		}
	}
}
