package gateway

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/ruche-storage/ruche/gateway/wire"
)

// reply is the response writer of one request. It knows what was sent, and
// moves the write deadline on while the client takes bytes.
type reply struct {
	http.ResponseWriter
	control *http.ResponseController
	idle    time.Duration
	moved   time.Time // when the write deadline was last moved
	created time.Time // when the head was read
	started time.Time // when the first byte was sent
	status  int       // 0 until the status line is written
	bytes   int64
}

func newReply(w http.ResponseWriter, idle time.Duration) *reply {
	return &reply{ResponseWriter: w, control: http.NewResponseController(w), idle: idle, created: time.Now()}
}

// Unwrap lets [http.ResponseController] find the connection.
func (w *reply) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements [http.ResponseWriter].
func (w *reply) WriteHeader(status int) {
	if w.status != 0 {
		return
	}
	w.status, w.started = status, time.Now()
	w.moveDeadline()
	w.ResponseWriter.WriteHeader(status)
}

// Write implements [io.Writer].
func (w *reply) Write(p []byte) (int, error) {
	if w.status == 0 {
		if h := w.Header(); h["Content-Type"] == nil {
			h.Set("Content-Type", wire.ContentTypeXML) // all bodies but those of objects
		}
		w.WriteHeader(http.StatusOK)
	}
	written := 0
	for {
		w.moveDeadline()
		n, err := w.ResponseWriter.Write(p[written:min(written+pieceBytes, len(p))])
		written += n
		w.bytes += int64(n)
		if err != nil || written == len(p) {
			return written, err
		}
	}
}

// pieceBytes is what a client has to take within the idle time.
const pieceBytes = 256 << 10

// moveDeadline gives the client another idle time. A part of it goes by before
// the timer is touched again.
func (w *reply) moveDeadline() {
	if w.idle <= 0 {
		return
	}
	now := time.Now()
	if now.Sub(w.moved) < w.idle/8 {
		return
	}
	w.moved = now
	// Recorders and other writers without connection have no deadlines.
	_ = w.control.SetWriteDeadline(now.Add(w.idle))
}

// done leaves time for what is still buffered.
func (w *reply) done() {
	w.moved = time.Time{}
	w.moveDeadline()
}

// countedBody is the raw body of a request. It moves the read deadline on
// while the client sends.
type countedBody struct {
	r     io.ReadCloser
	w     *reply
	idle  time.Duration
	moved time.Time
	bytes int64
	ended bool
}

func newCountedBody(r io.ReadCloser, w *reply, idle time.Duration) *countedBody {
	return &countedBody{r: r, w: w, idle: idle}
}

// Read implements [io.Reader].
func (b *countedBody) Read(p []byte) (int, error) {
	if b.idle > 0 && !b.ended {
		if now := time.Now(); now.Sub(b.moved) >= b.idle/8 {
			b.moved = now
			_ = b.w.control.SetReadDeadline(now.Add(b.idle))
		}
	}
	n, err := b.r.Read(p)
	b.bytes += int64(n)
	if err != nil && !b.ended {
		// From here on net/http watches the connection by itself; a deadline
		// left behind would look like a client that hung up.
		b.ended = true
		if b.idle > 0 && errors.Is(err, io.EOF) {
			_ = b.w.control.SetReadDeadline(time.Time{})
		}
	}
	return n, err
}

// drainTime bounds how long net/http waits for what is left of a body that was
// not read, which it does to keep the connection, before it sends the reply.
const drainTime = 5 * time.Second

// limitDrain sets that bound. Without it anybody could hold a connection by
// announcing a body and not sending it.
func (b *countedBody) limitDrain() {
	if b.ended || b.r == nil || b.r == http.NoBody || b.idle <= 0 {
		return
	}
	_ = b.w.control.SetReadDeadline(time.Now().Add(min(drainTime, b.idle/2)))
}

// sendXML sends a reply of 200 with the document that e has been given. Long
// documents are on their way already.
func (c *call) sendXML(e *wire.Encoder) error {
	return e.Close(func(length int) {
		c.w.Header().Set("Content-Length", strconv.Itoa(length))
	})
}

// xml begins a reply document with the given root.
func (c *call) xml(root string) *wire.Encoder {
	return wire.NewEncoder(c.w, root, false)
}

// abort breaks the connection: the only way left to tell the client that a
// reply is not whole.
func (s *Server) abort(c *call, err error) {
	if c.errorCode = s3Error(err).Code; c.ctx.Err() == nil {
		s.opts.Log.WarnContext(c.ctx, "reply broken off", "request", c.reqID, "operation", c.op.name, "bucket", c.bucket, "err", err)
	}
	panic(http.ErrAbortHandler)
}
