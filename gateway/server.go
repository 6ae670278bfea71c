package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"github.com/ruche-storage/ruche/gateway/sigv4"
	"github.com/ruche-storage/ruche/gateway/wire"
)

// Server answers S3 requests. It is an [http.Handler], best served by what
// [Server.HTTP] returns. It is safe for concurrent use.
type Server struct {
	objects     Objects
	opts        Options
	verifier    *sigv4.Verifier
	publicHosts []string
	classes     map[string]bool
	places      chan struct{} // one for each request that may be served now
	metrics     *Metrics
	access      *accessLog // nil for none
}

// New returns a server in front of objects. The caller ends it with Close.
func New(objects Objects, opts Options) (*Server, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	s := &Server{
		objects:  objects,
		opts:     opts,
		verifier: sigv4.NewVerifier(sigv4.Options{Region: opts.Region, StrictRegion: opts.StrictRegion}),
		classes:  set(append([]string{standard}, opts.StorageClasses...)...),
		places:   make(chan struct{}, opts.MaxRequests),
		metrics:  newMetrics(),
	}
	for _, p := range opts.PublicURLs {
		u, err := url.Parse(p)
		if err != nil {
			return nil, fmt.Errorf("gateway: public URL %q: %w", p, err)
		}
		s.publicHosts = append(s.publicHosts, u.Host)
	}
	if opts.AccessLog != nil {
		s.access = newAccessLog(opts.AccessLog, s.metrics.accessLogDropped, s.metrics.accessLogErrors)
	}
	return s, nil
}

// Metrics returns what the server counts.
func (s *Server) Metrics() *Metrics { return s.metrics }

// Close writes what is left of the access log. No request may be under way.
func (s *Server) Close() error {
	if s.access == nil {
		return nil
	}
	return s.access.close()
}

// call is one request on its way through the server.
type call struct {
	target
	w     *reply
	r     *http.Request
	ctx   context.Context
	query url.Values
	op    *operation
	id    *sigv4.Identity // nil until verified
	host  string          // as the client addressed it
	https bool
	reqID string
	start time.Time

	source       copySource // of calls that copy
	body         *countedBody
	verifiedBody *sigv4.Body // nil until asked for
	continued    bool        // 100 Continue was sent for an empty body
	errorCode    string      // code of the error answered
	objectSize   int64       // for the access log, -1 if there is none
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(*conn); ok {
		c.serving.Store(true)
	}
	if s.health(w, r) {
		return
	}
	c := &call{
		r: r, ctx: r.Context(), op: &unknown, reqID: s.opts.RequestID(), start: s.opts.Now(), objectSize: -1,
	}
	c.w = newReply(w, s.opts.IdleTimeout)
	c.body = newCountedBody(r.Body, c.w, s.opts.IdleTimeout)
	unhide(r.Header)
	s.resolveProxy(c)
	h := w.Header()
	h["X-Amz-Request-Id"] = []string{c.reqID}
	h["X-Amz-Id-2"] = []string{s.opts.HostID}
	h["Server"] = serverHeader
	s.metrics.inFlight.Inc()
	defer s.finish(c)

	err := s.route(c)
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	default:
		s.metrics.refused.Inc()
		s.fail(c, wire.SlowDown)
		return
	}
	if err == nil {
		err = s.serve(c)
	}
	if err != nil {
		s.fail(c, err)
	}
}

var serverHeader = []string{"Ruche"}

// route finds out what the request asks for.
func (s *Server) route(c *call) error {
	t, err := locate(c.r.URL, c.host, s.opts.Domains)
	c.target = t
	if err != nil {
		return err
	}
	if c.query, err = url.ParseQuery(c.r.URL.RawQuery); err != nil {
		return wire.InvalidURI.Because(err)
	}
	op, err := find(c.r, &c.target, c.query)
	if op != nil {
		c.op = op
	}
	if c.op.name == "HeadBucket" {
		// Refusals tell it too: SDKs ask without credentials where a bucket is.
		c.w.Header().Set(wire.HeaderBucketRegion, s.opts.Region)
	}
	return err
}

// serve verifies, authorises and acts.
func (s *Server) serve(c *call) error {
	if c.op == &preflight {
		return c.op.handle(s, c)
	}
	if err := s.verify(c); err != nil {
		return err
	}
	if err := s.authorise(c); err != nil {
		return err
	}
	if c.expectsEmpty() {
		// net/http says 100 Continue when a body is read, and there is none.
		// Clients that ask anyway (botocore) take a final answer alone for a
		// refusal and are lost on the next request of the connection.
		c.w.ResponseWriter.WriteHeader(http.StatusContinue)
		c.continued = true
	}
	defer c.closeBody()
	return c.op.handle(s, c)
}

// expectsEmpty reports whether the client waits for 100 Continue before it sends
// a body of no bytes.
func (c *call) expectsEmpty() bool {
	return c.r.ContentLength == 0 && c.r.ProtoAtLeast(1, 1) && strings.EqualFold(c.r.Header.Get("Expect"), "100-continue")
}

// verify checks the signature: as the request came, and else under the public
// host names.
func (s *Server) verify(c *call) error {
	now := s.opts.Now()
	id, err := s.verifier.Verify(c.r, c.host, now, s.opts.Lookup)
	for _, host := range s.publicHosts {
		if !errors.Is(err, signatureMismatch) {
			break
		}
		if host == c.host {
			continue
		}
		if other, again := s.verifier.Verify(c.r, host, now, s.opts.Lookup); again == nil {
			id, err, c.host = other, nil, host
		}
	}
	if err != nil {
		return err
	}
	c.id = id
	if id.Kind == sigv4.Presigned {
		hoist(c.r.Header, c.query)
	}
	return nil
}

// signatureMismatch is what a wrong host leads to.
var signatureMismatch = &sigv4.Error{Code: "SignatureDoesNotMatch"}

// hoist adds the x-amz-* parameters of a presigned URL to the headers: some
// SDKs move headers there, and they mean the same. Headers go before.
func hoist(h http.Header, query url.Values) {
	for name, values := range query {
		if len(name) < 6 || !strings.EqualFold(name[:6], "x-amz-") || presigning[strings.ToLower(name)] {
			continue
		}
		if canonical := http.CanonicalHeaderKey(name); h[canonical] == nil {
			h[canonical] = values
		}
	}
}

// presigning are the parameters that make up the signature itself.
var presigning = set("x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-expires",
	"x-amz-signedheaders", "x-amz-signature", "x-amz-security-token", "x-amz-content-sha256")

// authorise is the one step that decides whether the request may be served.
func (s *Server) authorise(c *call) error {
	if err := s.allow(c, c.op.action, c.bucket, c.key); err != nil {
		return err
	}
	if err := s.checkOwner(c, wire.HeaderExpectedOwner); err != nil {
		return err
	}
	if !c.op.copies {
		return nil
	}
	if err := s.checkOwner(c, wire.HeaderExpectedSourceOwner); err != nil {
		return err
	}
	var err error
	if c.source, err = parseCopySource(c.r.Header); err != nil {
		return err
	}
	return s.allow(c, "s3:GetObject", c.source.bucket, c.source.key)
}

func (s *Server) allow(c *call, action, bucket, key string) error {
	err := s.opts.Authorizer.Authorize(c.ctx, c.id, action, bucket, key)
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*wire.Error](err); ok {
		return e
	}
	return wire.AccessDenied.Because(err)
}

// checkOwner refuses a request that expects another owner of the bucket. All
// buckets have one owner.
func (s *Server) checkOwner(c *call, header string) error {
	if want := c.r.Header.Get(header); want != "" && want != s.opts.Owner.ID {
		return wire.AccessDenied
	}
	return nil
}

// fail answers with an error, or breaks the connection if the status line is
// gone.
func (s *Server) fail(c *call, err error) {
	answer := c.explain(s3Error(err))
	c.errorCode = answer.Code
	level := levelOf(answer)
	s.opts.Log.Log(c.ctx, level, "request failed", "request", c.reqID, "operation", c.op.name,
		"bucket", c.bucket, "code", answer.Code, "err", err)
	if c.w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	h := c.w.Header()
	if answer.Status == http.StatusNotModified {
		c.w.WriteHeader(answer.Status)
		return
	}
	for _, name := range replyHeaders { // of a reply that did not come to be
		h.Del(name)
	}
	if answer.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	if answer.Code == wire.MethodNotAllowed.Code {
		answer = allowHeader(h, answer)
	}
	if c.wantsClose() || c.expectsEmpty() && !c.continued || answer.Code == wire.RequestTimeout.Code {
		h.Set("Connection", "close")
	}
	c.body.limitDrain()
	// A client that is gone does not read its error.
	_ = answer.WriteTo(c.w, c.r.Method == http.MethodHead, c.resource(), c.reqID, s.opts.HostID)
}

// replyHeaders describe a body that an error replaces.
var replyHeaders = []string{"Content-Type", "Content-Length", "Content-Encoding", "Content-Disposition", "Content-Language", "Cache-Control", "Expires"}

// allowHeader moves the allowed methods from the error's body to the header
// that HTTP has for them.
func allowHeader(h http.Header, e *wire.Error) *wire.Error {
	answer := wire.MethodNotAllowed.Say(e.Message)
	for _, f := range e.Fields {
		if f.Name == "AllowedMethods" {
			h.Set("Allow", strings.ReplaceAll(f.Value, ",", ", "))
			continue
		}
		answer = answer.With(f.Name, f.Value)
	}
	return answer
}

// finish ends every request, be it by return or by panic.
func (s *Server) finish(c *call) {
	recovered := recover()
	aborted := recovered == http.ErrAbortHandler
	if recovered != nil && !aborted {
		s.opts.Log.ErrorContext(c.ctx, "panic while serving", "request", c.reqID, "operation", c.op.name,
			"panic", fmt.Sprint(recovered), "stack", string(debug.Stack()))
		if aborted = c.w.status != 0; !aborted {
			c.errorCode = wire.InternalError.Code
			_ = wire.InternalError.WriteTo(c.w, c.r.Method == http.MethodHead, c.resource(), c.reqID, s.opts.HostID)
		}
	}
	c.body.limitDrain()
	c.w.done()
	took := s.opts.Now().Sub(c.start)
	s.metrics.inFlight.Dec()
	s.metrics.observe(c, took, aborted)
	if s.access != nil {
		s.access.record(s, c, took)
	}
	if s.opts.Log.Enabled(c.ctx, slog.LevelDebug) {
		s.opts.Log.DebugContext(c.ctx, "request", "request", c.reqID, "operation", c.op.name, "bucket", c.bucket,
			"key", c.key, "status", c.w.status, "sent", c.w.bytes, "received", c.body.bytes, "took", took)
	}
	if aborted {
		panic(http.ErrAbortHandler)
	}
}
