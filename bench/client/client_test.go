package client

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// unframe reads aws-chunked framing, strictly: CRLF, lower-case lengths, one
// empty chunk at the end and nothing after it.
func unframe(r io.Reader) ([]byte, error) {
	in := bufio.NewReader(r)
	var out []byte
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return nil, err
		}
		size, rest, _ := strings.Cut(line, ";chunk-signature=")
		n, err := strconv.ParseInt(size, 16, 32)
		if err != nil || len(rest) != 66 || !strings.HasSuffix(rest, "\r\n") {
			return nil, fmt.Errorf("frame %q: %w", line, err)
		}
		data := make([]byte, n+2)
		if _, err := io.ReadFull(in, data); err != nil {
			return nil, err
		}
		if string(data[n:]) != "\r\n" {
			return nil, fmt.Errorf("chunk of %d bytes ends in %q", n, data[n:])
		}
		out = append(out, data[:n]...)
		if n == 0 {
			if rest, err := io.ReadAll(in); len(rest) > 0 || err != nil {
				return nil, fmt.Errorf("after the last chunk: %q, %v", rest, err)
			}
			return out, nil
		}
	}
}

// echo answers with the body it was sent, out of its framing.
func echo(w http.ResponseWriter, r *http.Request) {
	read := io.ReadAll
	if r.Header.Get("X-Amz-Content-Sha256") == streamingHash {
		read = unframe
	}
	body, err := read(r.Body)
	if decoded := r.Header.Get("X-Amz-Decoded-Content-Length"); err == nil && decoded != "" && decoded != strconv.Itoa(len(body)) {
		err = fmt.Errorf("decoded length %s of %d bytes", decoded, len(body))
	}
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, "<Error><Code>Framing</Code><Message>%v</Message></Error>", err)
		return
	}
	w.Header().Set("ETag", `"of `+r.URL.Path+`"`)
	if r.URL.RawQuery == "chunked" { // so that net/http does not know the length
		w.(http.Flusher).Flush()
	}
	w.Write(body)
}

func dialTest(t *testing.T, target Target) *Conn {
	t.Helper()
	c, err := New(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestBodies(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(echo))
	t.Cleanup(server.Close)
	secure := httptest.NewTLSServer(http.HandlerFunc(echo))
	t.Cleanup(secure.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Conn{dialTest(t, Target{Endpoint: server.URL}), dialTest(t, Target{Endpoint: secure.URL, CAFile: ca})} {
		for _, size := range []int64{0, 1, 4 << 10, smallBytes, smallBytes + 1, ChunkBytes - 1, ChunkBytes, ChunkBytes + 1, 128 << 10, writeChunks * ChunkBytes, writeChunks*ChunkBytes + 5, 3<<20 + 17} {
			body := NewBody(7, size)
			for _, payload := range []Payload{Streaming, Unsigned, Hashed} {
				for _, query := range []string{"", "chunked"} {
					r := &Request{Method: "PUT", Path: "/b/k", Query: query, Body: body, Payload: payload, Keep: true, Hash: true}
					reply, err := c.Do(t.Context(), r)
					if err != nil {
						t.Fatalf("%s %d bytes, payload %d, %q: %v", c.target.Endpoint, size, payload, query, err)
					}
					if reply.Status != 200 || reply.Bytes != size || !bytes.Equal(reply.Body, body.pattern) || reply.SHA256 != body.SHA256 || reply.ETag != `"of /b/k"` {
						t.Errorf("%s %d bytes, payload %d, %q: status %d, %d bytes, hash %s, etag %s", c.target.Endpoint, size, payload, query, reply.Status, reply.Bytes, reply.SHA256, reply.ETag)
					}
				}
			}
		}
	}
}

func TestRepeatedBody(t *testing.T) {
	t.Parallel()
	const size = maxPattern + 3*ChunkBytes + 100
	body := NewBody(1, size)
	whole := sha256.New()
	var off int64
	for off < size {
		data, digest := body.chunk(off)
		if got := hexSum(data); got != digest {
			t.Fatalf("hash of the chunk at %d is %s, want %s", off, digest, got)
		}
		whole.Write(data)
		off += int64(len(data))
	}
	if got := hex.EncodeToString(whole.Sum(nil)); off != size || got != body.SHA256 {
		t.Errorf("%d bytes with hash %s, want %d with %s", off, got, int64(size), body.SHA256)
	}
	if same := NewBody(1, 100); same.SHA256 != NewBody(1, 100).SHA256 || same.SHA256 == NewBody(2, 100).SHA256 {
		t.Error("bodies do not depend on their seeds alone")
	}
}

// TestAnswers gives the client answers byte by byte.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, method, answer string
		status               int
		body                 string
		err                  error
		refused              *Error
		closed               bool
	}{
		{name: "length", answer: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", status: 200, body: "abc"},
		{name: "chunks and a trailer", answer: "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nX: y\r\n\r\n", status: 200, body: "abc"},
		{name: "until the end", answer: "HTTP/1.0 200 OK\r\n\r\nabc", status: 200, body: "abc", closed: true},
		{name: "continue first", answer: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", status: 204},
		{name: "head", method: "HEAD", answer: "HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n", status: 200},
		{name: "says close", answer: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", status: 200, closed: true},
		{name: "error", answer: "HTTP/1.1 503 Slow Down\r\nContent-Length: 66\r\n\r\n<Error><Code>SlowDown</Code><Message>a &lt; b</Message></Error>   ", status: 503,
			refused: &Error{Status: 503, Code: "SlowDown", Message: "a < b"}},
		{name: "error without a body", method: "HEAD", answer: "HTTP/1.1 404 Not Found\r\n\r\n", status: 404, refused: &Error{Status: 404}},
		{name: "body cut short", answer: "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", err: io.ErrUnexpectedEOF, closed: true},
		{name: "chunk cut short", answer: "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nabc", err: io.ErrUnexpectedEOF, closed: true},
		{name: "trailer cut short", answer: "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", err: io.ErrUnexpectedEOF, closed: true},
		{name: "nothing", err: io.ErrUnexpectedEOF, closed: true},
		{name: "not HTTP", answer: "SSH-2.0-x\r\n", err: ErrAnswer, closed: true},
		{name: "no status", answer: "HTTP/1.1 abc OK\r\n\r\n", err: ErrAnswer, closed: true},
		{name: "negative length", answer: "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", err: ErrAnswer, closed: true},
		{name: "header without colon", answer: "HTTP/1.1 200 OK\r\nabc\r\n\r\n", err: ErrAnswer, closed: true},
		{name: "endless header", answer: "HTTP/1.1 200 OK\r\nx: " + strings.Repeat("y", 20<<10) + "\r\n\r\n", err: ErrAnswer, closed: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			endpoint := answer(t, c.answer)
			conn := dialTest(t, Target{Endpoint: endpoint})
			method := c.method
			if method == "" {
				method = "GET"
			}
			reply, err := conn.Do(t.Context(), &Request{Method: method, Path: "/b", Keep: true})
			var refused *Error
			switch {
			case c.refused != nil:
				if !errors.As(err, &refused) || *refused != *c.refused {
					t.Errorf("error %v, want %v", err, c.refused)
				}
			case !errors.Is(err, c.err):
				t.Errorf("error %v, want %v", err, c.err)
			case err == nil && string(reply.Body) != c.body:
				t.Errorf("body %q, want %q", reply.Body, c.body)
			}
			if reply.Status != c.status || (conn.conn == nil) != c.closed {
				t.Errorf("status %d, closed %v; want %d, %v", reply.Status, conn.conn == nil, c.status, c.closed)
			}
		})
	}
}

// answer listens for one request, answers with exactly the bytes given and
// ends the connection.
func answer(t *testing.T, text string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			return
		}
		io.WriteString(conn, text)
	}()
	return "http://" + listener.Addr().String()
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, endpoint := range []string{"", "127.0.0.1:9000", "ftp://h", "http://", "http://h/path", "http://h:\x00"} {
		if _, err := New(Target{Endpoint: endpoint}); err == nil {
			t.Errorf("New takes the endpoint %q", endpoint)
		}
	}
	if _, err := New(Target{Endpoint: "https://h", CAFile: "/nonexistent"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("New with a missing file of authorities: %v", err)
	}
}

func FuzzReadHead(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nETag: \"x\"\r\n\r\n"))
	f.Add([]byte("HTTP/1.0 404 x\nTransfer-Encoding: chunked\n\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		h, err := readHead(bufio.NewReaderSize(bytes.NewReader(text), 64))
		if err == nil && (h.status < 100 || h.status > 999 || h.length < -1) {
			t.Errorf("readHead = %+v", h)
		}
	})
}
