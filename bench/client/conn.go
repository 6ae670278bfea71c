package client

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"time"
)

const (
	// callLimit ends a request that hangs. One GiB over a slow disk fits in.
	callLimit = 5 * time.Minute

	smallBytes  = 32 << 10  // requests up to that are copied into one write
	writeChunks = 16        // signed chunks a vectored write
	readBytes   = 256 << 10 // buffer for bodies of answers
	keepLimit   = 8 << 20   // answers that are kept may be that long
)

// Target is an S3 endpoint and who calls it.
type Target struct {
	Endpoint  string // base address: http://host:port or https://host:port
	AccessKey string
	SecretKey string
	Region    string
	CAFile    string // PEM file of authorities for https; empty: the system's
}

// Request is one call.
type Request struct {
	Method  string
	Path    string // "/bucket/key", in canonical encoding
	Query   string // in canonical order and encoding, without "?"
	Body    *Body  // nil: none
	Payload Payload
	Keep    bool // keep the body of the answer
	Hash    bool // hash the body of the answer
}

// Response is the answer to a call, read to its end.
type Response struct {
	Status int
	ETag   string
	Bytes  int64  // length of the body
	Body   []byte // if it was to be kept
	SHA256 string // of the body in hexadecimal, if it was to be hashed
}

// Conn is one connection to a target and its only user's: it is not for
// concurrent use. It dials when it has to.
type Conn struct {
	target Target
	host   string
	tls    *tls.Config // nil: plain HTTP
	dialer net.Dialer

	conn  net.Conn
	in    *bufio.Reader
	sign  signer
	stamp stamper

	out     []byte      // head of a request, or all of a small one
	auth    []byte      // value of Authorization
	headers []header    // of the current request
	frames  []byte      // heads of chunks
	buffers net.Buffers // for vectored writes
	read    []byte
}

// New returns an unconnected connection to a target.
func New(t Target) (*Conn, error) {
	u, err := url.Parse(t.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || (u.Path != "" && u.Path != "/") {
		return nil, fmt.Errorf("endpoint %q is not http://host:port or https://host:port", t.Endpoint)
	}
	c := &Conn{
		target: t, host: u.Host,
		sign: signer{accessKey: t.AccessKey, secretKey: t.SecretKey, region: t.Region},
		read: make([]byte, readBytes),
	}
	if u.Scheme == "https" {
		c.tls = &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
		if t.CAFile != "" {
			pem, err := os.ReadFile(t.CAFile)
			if err != nil {
				return nil, fmt.Errorf("read authorities: %w", err)
			}
			c.tls.RootCAs = x509.NewCertPool()
			if !c.tls.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("%s holds no certificate", t.CAFile)
			}
		}
	}
	return c, nil
}

// Close closes the connection; a later call dials again.
func (c *Conn) Close() error {
	if c.conn == nil {
		return nil
	}
	err := c.conn.Close()
	c.conn = nil
	return err
}

// dial connects, if there is no connection.
func (c *Conn) dial(ctx context.Context) error {
	if c.conn != nil {
		return nil
	}
	address := c.host
	if _, _, err := net.SplitHostPort(address); err != nil {
		port := "80"
		if c.tls != nil {
			port = "443"
		}
		address = net.JoinHostPort(address, port)
	}
	conn, err := c.dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	if c.tls != nil {
		secure := tls.Client(conn, c.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			return errors.Join(err, conn.Close())
		}
		conn = secure
	}
	c.conn = conn
	if c.in == nil {
		c.in = bufio.NewReaderSize(conn, 16<<10)
	} else {
		c.in.Reset(conn)
	}
	return nil
}

// Do sends a request and reads the answer. An answer of 300 and above is an
// [*Error]. After any other error the connection is closed. Nothing is sent
// twice.
func (c *Conn) Do(ctx context.Context, r *Request) (Response, error) {
	if err := c.dial(ctx); err != nil {
		return Response{}, fmt.Errorf("dial: %w", err)
	}
	conn := c.conn
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(callLimit)); err != nil {
		return Response{}, errors.Join(err, c.Close())
	}
	sent := c.send(r)
	// A server that refuses may answer before it has read the body, and its
	// answer says more than the broken connection.
	reply, keep, err := c.receive(r)
	var refused *Error
	if err != nil && !errors.As(err, &refused) {
		return Response{}, errors.Join(sent, err, context.Cause(ctx), c.Close())
	}
	if !keep || sent != nil {
		if err := c.Close(); err != nil && sent == nil {
			return reply, err
		}
	}
	if err == nil && sent != nil {
		err = fmt.Errorf("answered %d to half a request: %w", reply.Status, sent)
	}
	return reply, err
}

// send writes a request.
func (c *Conn) send(r *Request) error {
	stamp := c.stamp.at(time.Now())
	payload, length, size := emptyHash, int64(0), int64(0)
	streaming := r.Body != nil && r.Payload == Streaming
	if r.Body != nil {
		size = r.Body.Size
		length = size
		switch r.Payload {
		case Streaming:
			payload, length = streamingHash, framedLength(size)
		case Unsigned:
			payload = unsignedHash
		default:
			payload = r.Body.SHA256
		}
	}
	c.headers = append(c.headers[:0], header{"host", c.host}, header{"x-amz-content-sha256", payload}, header{"x-amz-date", stamp})
	if streaming {
		c.headers = append(c.headers, header{"x-amz-decoded-content-length", strconv.FormatInt(size, 10)})
	}
	var signature [2 * sha256.Size]byte
	c.auth, signature = c.sign.sign(c.auth[:0], stamp, r.Method, r.Path, r.Query, c.headers, payload)
	c.head(r, length, streaming)
	switch {
	case r.Body == nil:
		_, err := c.conn.Write(c.out)
		return err
	case streaming:
		return c.sendChunks(stamp, signature, r.Body)
	default:
		return c.sendPlain(r.Body)
	}
}

// head makes the head of a request in c.out.
func (c *Conn) head(r *Request, length int64, streaming bool) {
	b := append(c.out[:0], r.Method...)
	b = append(b, ' ')
	b = append(b, r.Path...)
	if r.Query != "" {
		b = append(b, '?')
		b = append(b, r.Query...)
	}
	b = append(b, " HTTP/1.1\r\n"...)
	for _, h := range c.headers {
		b = append(b, h.name...)
		b = append(b, ": "...)
		b = append(b, h.value...)
		b = append(b, "\r\n"...)
	}
	b = append(b, "authorization: "...)
	b = append(b, c.auth...)
	b = append(b, "\r\nuser-agent: ruche-bench\r\n"...)
	if streaming {
		b = append(b, "content-encoding: aws-chunked\r\n"...)
	}
	if r.Body != nil {
		b = append(b, "content-type: application/octet-stream\r\n"...)
	}
	if r.Body != nil || r.Method == "PUT" || r.Method == "POST" {
		b = append(b, "content-length: "...)
		b = strconv.AppendInt(b, length, 10)
		b = append(b, "\r\n"...)
	}
	c.out = append(b, "\r\n"...)
}

// sendPlain writes c.out and a body as it is.
func (c *Conn) sendPlain(body *Body) error {
	if body.Size <= smallBytes {
		c.out = append(c.out, body.pattern...)
		_, err := c.conn.Write(c.out)
		return err
	}
	const step = writeChunks * ChunkBytes
	for off := int64(0); off < body.Size; {
		s := body.slice(off, min(step, body.Size-off))
		c.buffers = c.buffers[:0]
		if off == 0 {
			c.buffers = append(c.buffers, c.out)
		}
		if err := c.writev(append(c.buffers, s)); err != nil {
			return err
		}
		off += int64(len(s))
	}
	return nil
}

// framedLength is the length of a body of size bytes in signed chunks.
func framedLength(size int64) int64 {
	const overhead = int64(len(";chunk-signature=") + 2*sha256.Size + len("\r\n\r\n"))
	frame := func(n int64) int64 { return int64(len(strconv.FormatInt(n, 16))) + overhead + n }
	length := size / ChunkBytes * frame(ChunkBytes)
	if rest := size % ChunkBytes; rest > 0 {
		length += frame(rest)
	}
	return length + frame(0)
}

// sendChunks writes c.out and a body in signed chunks, the last one empty. The
// bytes of large bodies go to the socket from where they lie.
func (c *Conn) sendChunks(stamp string, signature [2 * sha256.Size]byte, body *Body) error {
	if body.Size <= smallBytes {
		b := c.out
		if body.Size > 0 {
			data, digest := body.chunk(0)
			signature = c.sign.signChunk(stamp, signature, digest)
			b = appendFrame(b, len(data), signature)
			b = append(b, data...)
			b = append(b, "\r\n"...)
		}
		signature = c.sign.signChunk(stamp, signature, [2 * sha256.Size]byte([]byte(emptyHash)))
		c.out = append(appendFrame(b, 0, signature), "\r\n"...)
		_, err := c.conn.Write(c.out)
		return err
	}
	// A frame never moves while a buffer points to it.
	const frameBytes = 128
	if c.frames == nil {
		c.frames = make([]byte, 0, (writeChunks+1)*frameBytes)
	}
	c.buffers = append(c.buffers[:0], c.out)
	frames, inFlight := c.frames[:0], 0
	for off := int64(0); off <= body.Size; {
		data, digest := []byte(nil), [2 * sha256.Size]byte([]byte(emptyHash))
		if off < body.Size {
			data, digest = body.chunk(off)
		}
		signature = c.sign.signChunk(stamp, signature, digest)
		start := len(frames)
		if off > 0 {
			frames = append(frames, "\r\n"...) // end of the chunk before
		}
		frames = appendFrame(frames, len(data), signature)
		last := len(data) == 0
		if last {
			frames = append(frames, "\r\n"...)
		}
		c.buffers = append(c.buffers, frames[start:len(frames):len(frames)], data)
		if inFlight++; inFlight == writeChunks || last {
			if err := c.writev(c.buffers); err != nil {
				return err
			}
			c.buffers, frames, inFlight = c.buffers[:0], frames[:0], 0
		}
		if last {
			return nil
		}
		off += int64(len(data))
	}
	return nil
}

// appendFrame appends the head of a chunk of n bytes.
func appendFrame(b []byte, n int, signature [2 * sha256.Size]byte) []byte {
	b = strconv.AppendInt(b, int64(n), 16)
	b = append(b, ";chunk-signature="...)
	b = append(b, signature[:]...)
	return append(b, "\r\n"...)
}

// writev writes buffers with as few system calls as the connection allows.
func (c *Conn) writev(buffers net.Buffers) error {
	c.buffers = buffers               // keeps what append made
	_, err := buffers.WriteTo(c.conn) // consumes its own copy of the slice header
	return err
}
