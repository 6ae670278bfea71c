package gateway

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ruche-storage/ruche/gateway/sigv4"
	"github.com/ruche-storage/ruche/gateway/wire"
)

// accessLog writes lines in the format of AWS's server access logs (Amazon S3
// User Guide, "Amazon S3 server access log format"). Requests never wait for
// it: when the writer does not keep up, lines are dropped and counted.
type accessLog struct {
	lines   chan []byte
	done    chan struct{}
	err     error // of the writer; read after done
	dropped prometheus.Counter
	errors  prometheus.Counter

	closing sync.RWMutex // held for reading while a line is queued
	closed  bool         // no line may be queued any more
}

const (
	accessLogLines  = 4096      // queued at most
	accessLogBuffer = 256 << 10 // bytes gathered before a write
)

func newAccessLog(w io.Writer, dropped, errs prometheus.Counter) *accessLog {
	l := &accessLog{
		lines: make(chan []byte, accessLogLines), done: make(chan struct{}), dropped: dropped, errors: errs,
	}
	go l.run(w)
	return l
}

// run writes until the queue is closed. It flushes whenever it has caught up.
func (l *accessLog) run(w io.Writer) {
	defer close(l.done)
	b := bufio.NewWriterSize(w, accessLogBuffer)
	for line := range l.lines {
		_, err := b.Write(line)
		if err == nil && len(l.lines) == 0 {
			err = b.Flush()
		}
		if err != nil {
			// A full disk may have room again: go on with an empty buffer.
			l.err = err
			l.errors.Inc()
			l.dropped.Inc()
			b.Reset(w)
		}
	}
	if err := b.Flush(); err != nil {
		l.err = err
	}
}

// close writes what is queued and waits for it.
func (l *accessLog) close() error {
	l.closing.Lock()
	if !l.closed {
		l.closed = true
		close(l.lines)
	}
	l.closing.Unlock()
	<-l.done
	return l.err
}

func (l *accessLog) record(s *Server, c *call, took time.Duration) {
	line := appendAccessLine(nil, s, c, took)
	l.closing.RLock()
	defer l.closing.RUnlock()
	if l.closed {
		l.dropped.Inc()
		return
	}
	select {
	case l.lines <- line:
	default:
		l.dropped.Inc()
	}
}

// appendAccessLine appends one line: fields separated by blanks, "-" for what
// does not apply, free text in quotes.
func appendAccessLine(b []byte, s *Server, c *call, took time.Duration) []byte {
	field := func(v string) {
		if v == "" {
			v = "-"
		}
		b = append(appendClean(b, v), ' ')
	}
	quoted := func(v string) {
		if v == "" {
			v = "-"
		}
		b = append(b, '"')
		b = append(appendClean(b, v), '"', ' ')
	}
	number := func(n int64, absent bool) {
		if absent {
			field("")
			return
		}
		b = append(strconv.AppendInt(b, n, 10), ' ')
	}
	field(s.opts.Owner.ID)
	field(c.bucket)
	b = append(c.start.UTC().AppendFormat(b, "[02/Jan/2006:15:04:05 -0700]"), ' ')
	field(s.clientAddr(c.r))
	requester, version, auth := "", "", ""
	if c.id != nil && c.id.Kind != sigv4.Anonymous {
		requester, version, auth = c.id.AccessKey, "SigV4", "AuthHeader"
		if c.id.Kind == sigv4.Presigned {
			auth = "QueryString"
		}
	}
	field(requester)
	field(c.reqID)
	field(c.op.log)
	field(wire.URLEncode(c.key))
	quoted(c.r.Method + " " + requestURI(c.r) + " " + c.r.Proto)
	number(int64(c.status()), false)
	field(c.errorCode)
	number(c.w.bytes, c.w.bytes == 0)
	number(c.objectSize, c.objectSize < 0)
	number(took.Milliseconds(), false)
	number(c.w.started.Sub(c.w.created).Milliseconds(), c.w.started.IsZero())
	quoted(c.r.Referer())
	quoted(c.r.UserAgent())
	field(c.query.Get("versionId"))
	field(s.opts.HostID)
	field(version)
	cipher, protocol := tlsNames(connectionState(c.r))
	field(cipher)
	field(auth)
	field(c.host)
	field(protocol)
	field("") // access point
	field("") // ACL required
	b = appendClean(b, s.opts.Region)
	return append(b, '\n')
}

// appendClean appends v without what would end a field or a line.
func appendClean(b []byte, v string) []byte {
	for i := range len(v) {
		switch ch := v[i]; {
		case ch == '"':
			b = append(b, "%22"...)
		case ch < 0x20 || ch == 0x7f:
			b = append(b, '?')
		default:
			b = append(b, ch)
		}
	}
	return b
}

// requestURI is the request line's URI without the signature of a presigned
// URL, which would let a reader of the log use it.
func requestURI(r *http.Request) string {
	query := r.URL.Query()
	if !query.Has("X-Amz-Signature") {
		return r.RequestURI
	}
	query.Set("X-Amz-Signature", "redacted")
	query.Del("X-Amz-Security-Token")
	return r.URL.EscapedPath() + "?" + query.Encode()
}

func tlsNames(state *tls.ConnectionState) (cipher, protocol string) {
	if state == nil {
		return "", ""
	}
	protocol = map[uint16]string{tls.VersionTLS12: "TLSv1.2", tls.VersionTLS13: "TLSv1.3"}[state.Version]
	return tls.CipherSuiteName(state.CipherSuite), protocol
}

// hostOf returns the address of a host:port.
func hostOf(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}
