package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/gateway"
	"github.com/ruche-storage/ruche/gateway/object"
	"github.com/ruche-storage/ruche/metadata/keyring"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/node"
)

// Options are what a server is started with. All fields but KDF, Colours,
// MetadataTick and Reopen are required.
type Options struct {
	Config  *config.Config // validated
	Version string
	Log     *slog.Logger
	Now     func() time.Time
	// Out takes what the operator has to see once, such as the recovery code.
	Out     io.Writer
	Colours bool
	// KDF are the parameters of the recovery code's key derivation; zero
	// means keyring.DefaultKDF.
	KDF keyring.KDF
	// MetadataTick is the unit of timeouts between copies of the metadata; zero
	// means the engine's default.
	MetadataTick time.Duration
	// Reopen has the access log opened anew at every value; nil for never.
	Reopen <-chan os.Signal
	// Environ tells whether the Go runtime was tuned from outside.
	Environ []string
}

// adminDrain is how long calls of the admin API may go on after a stop.
const adminDrain = 2 * time.Second

// process is a running server.
type process struct {
	Options
	c   *config.Config
	dir string // state directory

	lock *os.File
	net  *listeners
	id   *identity
	idMu sync.Mutex // guards what changes of id, and its file
	// replaceMu is held while a drive is replaced: one at a time.
	replaceMu  sync.Mutex
	ring       *keyKeeper
	meta       *replica.Switch
	opened     []uint64 // positions of the only copy when it was opened, nil if there are several
	copies     *copyKeeper
	node       *node.Node
	conditions *conditions
	away       []node.Refused // paths that were not opened, fixed at start
	back       returned
	stateFiles vfs.FS // of what lies in the state directory; see stateFS
	plain      plainFiles
	hanging    bool // the engine ended while calls on drives had not returned
	root       Credentials
	keys       *accessKeys
	eng        *object.Engine
	s3         *gateway.Server
	ctl        *control
	first      firstStart
	// bad takes what scrubs find, once the engine runs: drives scrub before.
	bad atomic.Pointer[object.Engine]

	started time.Time
	// stopping is set when the process begins to end.
	stopping atomic.Bool
	// failed receives why the metadata can serve no more.
	failed chan error
	// closers end what was started, last first.
	closers []closer
}

type closer struct {
	what  string
	close func() error
}

// firstStart is what the owner has to be shown.
type firstStart struct {
	is            bool
	rootGenerated bool
}

// onClose notes how a part ends.
func (p *process) onClose(what string, f func() error) {
	p.closers = append(p.closers, closer{what, f})
}

// close ends all parts in the reverse order of their start. That drives hold it
// up is logged, and no error.
func (p *process) close() error {
	var errs []error
	for _, c := range slices.Backward(p.closers) {
		err := c.close()
		switch {
		case errors.Is(err, errHangs):
			p.Log.Error("stopped without waiting any longer", "part", c.what, "err", err)
		case err != nil:
			errs = append(errs, fmt.Errorf("close %s: %w", c.what, err))
		}
	}
	p.closers = nil
	return errors.Join(errs...)
}

// Run starts a server and serves until ctx is done, then ends in order:
// requests in flight get the configured time, and every part is closed. An
// error that kept it from starting is a *[StartError] if its remedy is known.
func Run(ctx context.Context, o Options) (err error) {
	p := newProcess(o)
	defer func() { err = errors.Join(err, p.close()) }()
	restore := tune(o)
	p.onClose("runtime limits", restore)
	if err := p.open(ctx); err != nil {
		return err
	}
	return p.serve(ctx)
}

func newProcess(o Options) *process {
	return &process{Options: o, c: o.Config, dir: o.Config.StateDir(), started: o.Now(), failed: make(chan error, 1)}
}

// tune lets the heap grow further between collections than Go does by itself,
// as long as memory-limit is far: most of it is pooled buffers, which cost the
// collector work and yield nothing. GOGC and GOMEMLIMIT win.
func tune(o Options) (restore func() error) {
	const percent = 300
	limit, gc := int64(-1), -2
	if o.Config.MemoryLimit > 0 && !hasEnv(o.Environ, "GOMEMLIMIT") {
		limit = debug.SetMemoryLimit(int64(o.Config.MemoryLimit))
	}
	if o.Config.MemoryLimit > 0 && !hasEnv(o.Environ, "GOGC") {
		gc = debug.SetGCPercent(percent)
	}
	return func() error {
		if limit >= 0 {
			debug.SetMemoryLimit(limit)
		}
		if gc > -2 {
			debug.SetGCPercent(gc)
		}
		return nil
	}
}

func hasEnv(environ []string, name string) bool {
	return slices.ContainsFunc(environ, func(e string) bool { return len(e) > len(name) && e[:len(name)+1] == name+"=" })
}

// serve answers requests until ctx is done or a part fails.
func (p *process) serve(ctx context.Context) error {
	s3 := newFront("s3", p.s3.HTTP(), p.Log)
	adm := newFront("admin", httpServer(p.ctl.handler(), p.Log), p.Log)
	ended := make(chan error, 2)
	var serving sync.WaitGroup
	serving.Go(func() { ended <- s3.Serve(gateway.Listen(p.net.serving(p.net.s3, p.net.s3TLS))) })
	serving.Go(func() { ended <- adm.Serve(p.net.serving(p.net.admin, p.net.adminTLS)) })
	defer serving.Wait()

	err := p.announce()
	if err == nil {
		select {
		case <-ctx.Done():
			p.Log.Info("stopping", "drain", p.c.DrainTime.String())
		case err = <-ended:
			err = fmt.Errorf("serve: %w", err)
		case err = <-p.failed:
			err = fmt.Errorf("the metadata cannot be written: %w; check the device of %s and start again", err, p.dir)
		}
	}
	p.stopping.Store(true)
	// The admin API ends last: until then it answers 503 to /health/ready.
	s3.end(p.c.DrainTime)
	adm.end(adminDrain)
	return err
}

// front is an HTTP server that knows when its last request has ended.
type front struct {
	*http.Server
	what   string
	log    *slog.Logger
	cancel context.CancelCauseFunc // of the context of all requests
	busy   sync.WaitGroup
}

var errStopped = errors.New("server stopped")

func newFront(what string, s *http.Server, log *slog.Logger) *front {
	ctx, cancel := context.WithCancelCause(context.Background())
	f := &front{Server: s, what: what, log: log, cancel: cancel}
	s.BaseContext = func(net.Listener) context.Context { return ctx }
	inner := s.Handler
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.busy.Add(1)
		defer f.busy.Done()
		inner.ServeHTTP(w, r)
	})
	return f
}

// end lets requests in flight end, cuts off those that take longer, and waits
// until none is left: what they use is closed next.
func (f *front) end(patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := f.Shutdown(ctx); err != nil {
		f.log.Warn("requests were cut off", "server", f.what, "err", err)
		f.cancel(errStopped)
		f.Close() // its error is about listeners, which are closed already
	}
	f.busy.Wait()
	f.cancel(errStopped)
}

// announce writes endpoints.json and tells the operator where the server is.
func (p *process) announce() error {
	e := p.net.endpoints(p.c)
	name := filepath.Join(p.dir, "endpoints.json")
	if err := writeJSON(name, e, 0o644); err != nil {
		return fileError("write "+name, err)
	}
	p.Log.Info("serving", "version", p.Version, "cluster", p.id.Cluster.String(), "s3", e.S3, "admin", e.Admin)
	if _, err := fmt.Fprint(p.Out, p.welcome(e)); err != nil {
		p.Log.Warn("print where the server is", "err", err) // who cannot read it reads the log
	}
	return nil
}
