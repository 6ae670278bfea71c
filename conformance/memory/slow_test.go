package memory

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
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/ruche-storage/ruche/bench/process"
)

const (
	slowWriters    = 1000
	slowWriteBytes = 64 * mib // that each says it will send
)

// TestSlowClients is T-MEM: as many clients that write slowly as such that read
// slowly, all at the same time. Each is served, or told to slow down; nothing of
// what was not sent to its end can be seen.
func TestSlowClients(t *testing.T) {
	p, core := weigh(t)
	data := make([]byte, slowBytes)
	rand.NewChaCha8([32]byte{3}).Read(data)
	var slowed atomic.Int64
	if _, err := upload(t.Context(), core, "slow", data, &slowed); err != nil {
		t.Fatal(err)
	}
	get, err := core.PresignedGetObject(t.Context(), bucket, "slow", time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := process.ResetPeak(p.PID); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), slowTime)
	defer cancel()
	var reads, writes outcomes
	var clients sync.WaitGroup
	for i := range slowWriters {
		put, err := core.PresignedPutObject(t.Context(), bucket, fmt.Sprintf("cut/%04d", i), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		reader, writer := dial(t, p.Endpoint), dial(t, p.Endpoint)
		clients.Go(func() {
			_, status, err := readSlowly(ctx, reader, get, data)
			reads.add(t, status, err)
			reader.Close()
		})
		clients.Go(func() {
			status, err := writeSlowly(ctx, writer, put, data)
			writes.add(t, status, err)
			writer.Close()
		})
	}
	clients.Wait()
	weight, err := process.ReadMemory(p.PID)
	if err != nil {
		t.Fatal(err)
	}
	if weight.Peak > slowLimit {
		t.Errorf("peak of resident memory %d MiB, want at most %d", weight.Peak/mib, slowLimit/mib)
	}
	if reads.served.Load() == 0 || writes.served.Load() == 0 {
		t.Error("nobody was served")
	}
	// More clients than fit in: those are refused instead of the server being
	// killed.
	if reads.busy.Load() == 0 || writes.busy.Load() == 0 {
		t.Error("nobody was told to slow down: the clients do not reach the limit")
	}
	ctx, cancel = context.WithTimeout(t.Context(), settleLimit)
	defer cancel()
	if _, err := upload(ctx, core, "after", data, &slowed); err != nil {
		t.Errorf("upload after the slow clients: %v", err)
	}
	for range 2 { // the second time all is quiet
		list, err := core.ListObjectsV2(bucket, "cut/", "", "", "", 10)
		if err != nil || len(list.Contents) > 0 {
			t.Errorf("%d objects that were never sent whole are listed: %v", len(list.Contents), err)
		}
		body, _, _, err := core.GetObject(ctx, bucket, "after", minio.GetObjectOptions{})
		if err != nil {
			t.Fatalf("read after the slow clients: %v", err)
		}
		if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, data) {
			t.Errorf("read after the slow clients: %d bytes, %v", len(got), err)
		}
		body.Close()
	}
	t.Logf("T-MEM: %d slow PUTs (%d taken, %d told to slow down) and %d slow GETs (%d served, %d told to slow down) at a time, GOMEMLIMIT 512 MiB: peak %d MiB",
		slowWriters, writes.served.Load(), writes.busy.Load(), slowWriters, reads.served.Load(), reads.busy.Load(), weight.Peak/mib)
}

// outcomes counts how clients fared.
type outcomes struct{ served, busy atomic.Int64 }

func (o *outcomes) add(t *testing.T, status int, err error) {
	switch {
	case err != nil:
		t.Errorf("slow client: %v", err)
	case status == http.StatusOK:
		o.served.Add(1)
	case status == http.StatusServiceUnavailable:
		o.busy.Add(1)
	default:
		t.Errorf("slow client: status %d", status)
	}
}

// writeSlowly begins to put a large object, and sends 4 KiB of it every 50 ms
// until the time is over; then it hangs up. The status is that of an answer,
// which can only be a refusal, and 200 if there was none.
func writeSlowly(ctx context.Context, conn net.Conn, link *url.URL, data []byte) (status int, err error) {
	if err := conn.SetDeadline(time.Now().Add(slowTime + 30*time.Second)); err != nil {
		return 0, err
	}
	if _, err := fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", link.RequestURI(), link.Host, slowWriteBytes); err != nil {
		return 0, err
	}
	answered := make(chan int, 1)
	go func() {
		defer close(answered)
		reply, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err == nil {
			answered <- reply.StatusCode
		}
	}()
	defer func() {
		// The reader ends with the connection.
		conn.Close()
		<-answered
	}()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n += 4 << 10 {
		select {
		case status, ok := <-answered:
			if !ok {
				return 0, errors.New("the connection ends without an answer")
			}
			return status, nil
		case <-ctx.Done():
			return http.StatusOK, nil
		case <-tick.C:
		}
		if _, err := conn.Write(data[n : n+4<<10]); err != nil {
			// The answer may have come before the server closed.
			if status, ok := <-answered; ok {
				return status, nil
			}
			return 0, fmt.Errorf("after %d bytes: %w", n, err)
		}
	}
}
