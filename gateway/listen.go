package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/ruche-storage/ruche/gateway/wire"
)

// maxHeaderBytes bounds the head of a request. AWS takes 8 KiB of headers;
// presigned URLs and proxies add to that.
const maxHeaderBytes = 64 << 10

// HTTP returns a server for s with its time-outs and limits set. Serve it on
// what [Listen] makes of a listener. HTTP/1.1 only, as AWS: S3's clients speak
// nothing else, and one connection a stream of bytes needs no flow control of
// its own.
func (s *Server) HTTP() *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           s,
		ReadHeaderTimeout: s.opts.HeaderTimeout,
		IdleTimeout:       s.opts.KeepAlive,
		MaxHeaderBytes:    maxHeaderBytes,
		Protocols:         &protocols,
		ErrorLog:          log.New(connectionLog{s.opts.Log}, "", 0),
		ConnState: func(c net.Conn, state http.ConnState) {
			if c, ok := c.(*conn); ok && state == http.StateIdle {
				c.nextHead.Store(true)
				c.serving.Store(false)
			}
		},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if c, ok := c.(*conn); ok {
				c.rephrase = s.rephrase
			}
			return context.WithValue(ctx, connKey{}, c)
		},
		DisableGeneralOptionsHandler: true,
	}
}

// connectionLog takes what net/http has to say about connections: broken
// handshakes and the like, which anybody can cause.
type connectionLog struct{ log *slog.Logger }

// Write implements [io.Writer].
func (l connectionLog) Write(p []byte) (int, error) {
	l.log.Debug("http", "message", string(bytes.TrimSpace(p)))
	return len(p), nil
}

type connKey struct{}

// connectionState returns the TLS state of a request's connection, nil without
// TLS. net/http fills r.TLS only for connections that it can see through.
func connectionState(r *http.Request) *tls.ConnectionState {
	if r.TLS != nil {
		return r.TLS
	}
	c, ok := r.Context().Value(connKey{}).(*conn)
	if !ok {
		return nil
	}
	secure, ok := c.Conn.(*tls.Conn)
	if !ok {
		return nil
	}
	state := secure.ConnectionState()
	return &state
}

// Listen wraps a listener, for plain HTTP or of package crypto/tls, for the
// server that [Server.HTTP] returns. Its connections hide Expect headers with
// values other than 100-continue, which S3 ignores: net/http would answer 417
// by itself before any handler sees the request.
func Listen(l net.Listener) net.Listener { return listener{l} }

type listener struct{ net.Listener }

// Accept implements [net.Listener].
func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	wrapped := &conn{Conn: c}
	wrapped.nextHead.Store(true)
	return wrapped, nil
}

// conn is a connection whose reader looks at the heads of requests. net/http
// says by its connection state when a request is over and the next head comes.
// Of pipelined requests, which no S3 client sends, only the first is looked at.
type conn struct {
	net.Conn
	serving  atomic.Bool                // a request has reached the handler
	rephrase func(answer []byte) []byte // set before the first request, nil without [Server.HTTP]
	nextHead atomic.Bool                // set by ConnState
	inHead   bool                       // owned by Read, which net/http never runs twice at a time
	first    bool                       // on the request line
	line     []byte                     // a line that is held back because it may be an Expect header
	holding  bool                       // all of the line so far is in line
	empty    bool                       // nothing of the line was seen yet
	ready    []byte                     // to be handed out: the rest of buf
	buf      []byte
	err      error // to be handed out behind ready
}

// maxHeldBytes bounds a line that is held back. "Expect: 100-continue" is
// shorter; a longer one cannot be that.
const maxHeldBytes = 256

// Read implements [net.Conn].
func (c *conn) Read(p []byte) (int, error) {
	for {
		if len(c.ready) > 0 {
			n := copy(p, c.ready)
			c.ready = c.ready[n:]
			return n, nil
		}
		if c.err != nil {
			err := c.err
			c.err = nil // a time-out may be followed by more
			return 0, err
		}
		if len(p) == 0 {
			return c.Conn.Read(p)
		}
		n, err := c.Conn.Read(p)
		if c.nextHead.Swap(false) {
			c.inHead, c.first, c.holding, c.empty, c.line = true, true, false, true, c.line[:0]
		}
		if !c.inHead {
			return n, err
		}
		if c.whole(p[:n]) {
			return n, err
		}
		c.buf = c.scan(c.buf[:0], p[:n])
		if err != nil {
			c.buf = append(c.buf, c.line...)
			c.line, c.holding = c.line[:0], false
			c.err = err
		}
		c.ready = c.buf
	}
}

// whole deals in place with a head that came in one piece, as nearly all do.
// It reports false, and has done nothing, for the others.
func (c *conn) whole(p []byte) bool {
	if !c.first || !c.empty {
		return false
	}
	end := bytes.Index(p, []byte("\r\n\r\n"))
	if end < 0 {
		return false
	}
	c.inHead = false
	for rest := p[:end+2]; ; {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 || i+1 == len(rest) {
			return true
		}
		rest = rest[i+1:]
		if rest[0]|0x20 != 'e' || len(rest) < len(expect) || !bytes.EqualFold(rest[:len(expect)], expect) {
			continue
		}
		if line := rest[:bytes.IndexByte(rest, '\n')]; !is100Continue(line) {
			copy(line, hidden)
		}
	}
}

// hidden is the name under which an Expect header that is to be ignored passes
// net/http. It is as long, and no part of HTTP or S3 knows it.
const hidden = "X-Expt"

// unhide gives such a header its name back, for the signature may cover it.
func unhide(h http.Header) {
	if v := h[hidden]; v != nil && h["Expect"] == nil {
		h["Expect"] = v
		delete(h, hidden)
	}
}

// writeBytes is how much is handed to the kernel at a time: a call of 64 KiB,
// the length of a segment, costs a third more than two of half of it.
const writeBytes = 32 << 10

// Write implements [net.Conn]. While no request has reached the handler, what is
// written is net/http's own answer to a head that it could not parse.
func (c *conn) Write(p []byte) (int, error) {
	if c.rephrase != nil && !c.serving.Load() {
		if answer := c.rephrase(p); answer != nil {
			if _, err := c.Conn.Write(answer); err != nil {
				return 0, err
			}
			return len(p), nil
		}
	}
	written := 0
	for len(p) > writeBytes {
		n, err := c.Conn.Write(p[:writeBytes])
		written += n
		if err != nil {
			return written, err
		}
		p = p[n:]
	}
	n, err := c.Conn.Write(p)
	return written + n, err
}

// rephrase turns net/http's plain-text answers into ones that S3's clients can
// read. It returns nil for what is no such answer.
func (s *Server) rephrase(answer []byte) []byte {
	const plain = "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
	status, ok := bytes.CutPrefix(answer, []byte("HTTP/1.1 "))
	status, message, found := bytes.Cut(status, []byte(plain))
	if !ok || !found || len(status) < 3 {
		return nil
	}
	e := wire.BadRequest.Say("An error occurred when parsing the HTTP request.")
	if bytes.HasPrefix(status, []byte("431")) {
		e = wire.NewError(http.StatusBadRequest, "RequestHeaderSectionTooLarge", "Your request header section exceeds the maximum allowed size.")
	}
	id := s.opts.RequestID()
	s.opts.Log.Debug("request not parsed", "request", id, "answer", string(message))
	s.metrics.unparsed.Inc()
	body := e.AppendXML(nil, "", id, s.opts.HostID)
	head := fmt.Sprintf("HTTP/1.1 400 Bad Request\r\nDate: %s\r\nServer: %s\r\nX-Amz-Request-Id: %s\r\nX-Amz-Id-2: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n",
		wire.HTTPTime(s.opts.Now()), serverHeader[0], id, s.opts.HostID, wire.ContentTypeXML, len(body))
	return append([]byte(head), body...)
}

// CloseWrite ends the sending half, so that net/http can let a client read the
// reply that refuses its body before the connection is reset.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

var expect = []byte("expect:")

// scan appends to out what of p may be handed out.
func (c *conn) scan(out, p []byte) []byte {
	for i, b := range p {
		if !c.inHead {
			return append(out, p[i:]...)
		}
		if c.empty && !c.first && (b|0x20) == 'e' {
			c.holding = true
		}
		if b != '\r' && b != '\n' {
			c.empty = false
		}
		if c.holding {
			c.line = append(c.line, b)
			if n := min(len(c.line), len(expect)); !bytes.EqualFold(c.line[:n], expect[:n]) || len(c.line) > maxHeldBytes {
				out = c.release(out, len(c.line) > maxHeldBytes)
			} else if b == '\n' {
				out = c.release(out, !is100Continue(c.line))
			}
		} else {
			out = append(out, b)
		}
		if b == '\n' {
			if c.empty && !c.first {
				c.inHead = false
			}
			c.first, c.empty, c.holding = false, true, false
		}
	}
	return out
}

// release hands the held line out, with another name if it is to be hidden.
func (c *conn) release(out []byte, hide bool) []byte {
	if hide {
		copy(c.line, hidden)
	}
	out = append(out, c.line...)
	c.line, c.holding = c.line[:0], false
	return out
}

func is100Continue(line []byte) bool {
	return bytes.EqualFold(bytes.TrimSpace(line[len(expect):]), []byte("100-continue"))
}
