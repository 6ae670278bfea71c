package client

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"html"
	"io"
	"net/http/httputil"
	"strconv"
)

// Error is an answer of 300 and above.
type Error struct {
	Status  int
	Code    string // of S3; empty if the answer has none
	Message string
}

// Error makes e an error.
func (e *Error) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("answer %d", e.Status)
	}
	return fmt.Sprintf("answer %d %s: %s", e.Status, e.Code, e.Message)
}

// ErrAnswer means that what came is no HTTP answer that this client takes.
var ErrAnswer = errors.New("malformed answer")

// head is what the client reads of an answer's head.
type head struct {
	status  int
	length  int64 // -1: not given
	chunked bool
	close   bool
	etag    string
}

// receive reads the answer to r. keep says whether the connection can be used
// again; it means something if the error is nil or an [*Error].
func (c *Conn) receive(r *Request) (reply Response, keep bool, err error) {
	h, err := readHead(c.in)
	for err == nil && h.status/100 == 1 {
		h, err = readHead(c.in)
	}
	if err != nil {
		return reply, false, err
	}
	reply.Status, reply.ETag = h.status, h.etag
	if r.Method != "HEAD" && h.status != 204 && h.status != 304 {
		sink := sink{keep: r.Keep || h.status >= 300}
		if r.Hash {
			sink.hash = sha256.New()
		}
		if err := c.receiveBody(&h, &sink); err != nil {
			return reply, false, fmt.Errorf("after %d bytes of the body: %w", sink.bytes, err)
		}
		reply.Bytes, reply.Body = sink.bytes, sink.kept
		if r.Hash {
			reply.SHA256 = hex.EncodeToString(sink.hash.Sum(nil))
		}
	} else {
		reply.Bytes = max(h.length, 0)
	}
	if h.status >= 300 {
		err = &Error{Status: h.status, Code: Element(reply.Body, "Code"), Message: Element(reply.Body, "Message")}
	}
	return reply, !h.close, err
}

// receiveBody reads the body that a head announces.
func (c *Conn) receiveBody(h *head, to *sink) error {
	switch {
	case h.chunked:
		if _, err := io.CopyBuffer(to, httputil.NewChunkedReader(c.in), c.read); err != nil {
			return err
		}
		for { // trailers, of which none is looked at, and the empty line
			line, err := readLine(c.in)
			if err != nil || len(line) == 0 {
				return err
			}
		}
	case h.length < 0:
		h.close = true
		_, err := io.CopyBuffer(to, onlyReader{c.in}, c.read)
		return err
	}
	rest := h.length
	for rest > 0 {
		// What is buffered first, then from the socket: bufio steps aside for
		// reads that are longer than its buffer.
		n, err := c.in.Read(c.read[:min(rest, int64(len(c.read)))])
		rest -= int64(n)
		if _, err := to.Write(c.read[:n]); err != nil {
			return err
		}
		if err != nil && rest > 0 {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// onlyReader hides the other methods of a reader, so that io.CopyBuffer uses
// the buffer it is given.
type onlyReader struct{ io.Reader }

// sink takes the body of an answer.
type sink struct {
	bytes int64
	keep  bool
	kept  []byte
	hash  hash.Hash // nil: not hashed
}

func (s *sink) Write(p []byte) (int, error) {
	s.bytes += int64(len(p))
	if s.keep {
		if len(s.kept)+len(p) > keepLimit {
			return 0, fmt.Errorf("more than %d bytes: %w", keepLimit, ErrAnswer)
		}
		s.kept = append(s.kept, p...)
	}
	if s.hash != nil {
		s.hash.Write(p)
	}
	return len(p), nil
}

// readHead reads a status line and headers.
func readHead(in *bufio.Reader) (head, error) {
	h := head{length: -1}
	line, err := readLine(in)
	if err != nil {
		return h, err
	}
	// HTTP/1.1 200 OK
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) || line[8] != ' ' {
		return h, fmt.Errorf("status line %q: %w", line, ErrAnswer)
	}
	if h.status, err = strconv.Atoi(string(line[9:12])); err != nil || h.status < 100 {
		return h, fmt.Errorf("status line %q: %w", line, ErrAnswer)
	}
	h.close = line[7] == '0'
	for lines := 0; ; lines++ {
		line, err := readLine(in)
		if err != nil || len(line) == 0 {
			return h, err
		}
		name, value, found := bytes.Cut(line, []byte(":"))
		if !found || lines == 200 {
			return h, fmt.Errorf("header %q: %w", line, ErrAnswer)
		}
		if err := h.set(name, bytes.TrimSpace(value)); err != nil {
			return h, err
		}
	}
}

// set takes one header.
func (h *head) set(name, value []byte) error {
	switch {
	case bytes.EqualFold(name, []byte("content-length")):
		n, err := strconv.ParseInt(string(value), 10, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("content length %q: %w", value, ErrAnswer)
		}
		h.length = n
	case bytes.EqualFold(name, []byte("transfer-encoding")):
		h.chunked = bytes.EqualFold(value, []byte("chunked"))
	case bytes.EqualFold(name, []byte("connection")):
		h.close = h.close || bytes.EqualFold(value, []byte("close"))
	case bytes.EqualFold(name, []byte("etag")):
		h.etag = string(value)
	}
	return nil
}

// readLine reads a line without its end, valid until the next read.
func readLine(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, fmt.Errorf("line of more than %d bytes: %w", len(line), ErrAnswer)
	}
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return bytes.TrimRight(line, "\r\n"), nil
}

// Element returns the text of the first XML element of that name, which has no
// attributes and no children; "" if there is none.
func Element(text []byte, name string) string {
	_, rest, found := bytes.Cut(text, []byte("<"+name+">"))
	if !found {
		return ""
	}
	value, _, found := bytes.Cut(rest, []byte("</"+name+">"))
	if !found {
		return ""
	}
	return html.UnescapeString(string(value))
}
