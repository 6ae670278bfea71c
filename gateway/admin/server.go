package admin

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/ruche-storage/ruche/gateway/sigv4"
)

// maxBodyBytes bounds the body of a call.
const maxBodyBytes = 64 << 10

// Cluster answers for the store as a whole. Errors of the interfaces here are
// *Error for what the caller did wrong; anything else is answered as internal
// and logged.
type Cluster interface {
	Status(ctx context.Context) (*Status, error)
	Repair(ctx context.Context) (*Repair, error)
	// ResumeCollection confirms, after a restore, that garbage may be freed.
	ResumeCollection(ctx context.Context) error
}

// Drives lists and replaces drives.
type Drives interface {
	Drives(ctx context.Context) ([]Drive, error)
	// ReplaceDrive formats the drive and starts the rebuild; it does not wait
	// for its end.
	ReplaceDrive(ctx context.Context, req *ReplaceRequest) (*Drive, error)
}

// Scrubs starts scrubs and says how they are doing.
type Scrubs interface {
	// StartScrub begins a pass on every drive where none is running.
	StartScrub(ctx context.Context) error
	Scrub(ctx context.Context) (*Scrub, error)
}

// Keys manages access keys.
type Keys interface {
	Keys(ctx context.Context) ([]Key, error)
	CreateKey(ctx context.Context, req *CreateKeyRequest) (*Key, error)
	DeleteKey(ctx context.Context, id string) error
}

// Keyrings backs up and verifies the encryption keys.
type Keyrings interface {
	Keyring(ctx context.Context) (*Keyring, error)
	BackupKeyring(ctx context.Context) (*KeyringBackup, error)
	VerifyKeyring(ctx context.Context, recoveryCode string) error
}

// Buckets lists buckets with their settings and changes these.
type Buckets interface {
	Buckets(ctx context.Context) ([]Bucket, error)
	SetBucket(ctx context.Context, name string, req *SetBucketRequest) (*Bucket, error)
}

// Copies lists the copies of the metadata and changes where they are. A change
// is answered once it is durable that it will be made; the copies say how far it
// has come.
type Copies interface {
	Metadata(ctx context.Context) (*Metadata, error)
	AddCopy(ctx context.Context, req *AddCopyRequest) (*Metadata, error)
	ReplaceCopy(ctx context.Context, req *ReplaceCopyRequest) (*Metadata, error)
	RemoveCopy(ctx context.Context, req *CopyRequest) (*Metadata, error)
	// TransferCopy has other copies lead what this one leads.
	TransferCopy(ctx context.Context, req *CopyRequest) (*Metadata, error)
}

// HealthCheck answers load balancers. A nil error is healthy.
type HealthCheck interface {
	// Ready reports whether requests should be sent here.
	Ready(ctx context.Context) error
	// Writable reports whether the cluster takes writes; with maintenance,
	// whether it still would with one more drive away.
	Writable(ctx context.Context, maintenance bool) error
}

// Options are the parts of a Server. All but MetricsToken are required.
type Options struct {
	Cluster  Cluster
	Drives   Drives
	Scrubs   Scrubs
	Keys     Keys
	Keyrings Keyrings
	Buckets  Buckets
	Copies   Copies
	Backups  Backups
	Health   HealthCheck

	// Metrics renders /metrics.
	Metrics http.Handler
	// OpenMetrics lets anybody read /metrics: the listener is a loopback one.
	OpenMetrics bool
	// MetricsToken is a bearer token for /metrics; empty for none.
	MetricsToken string

	// Profiling lets access keys look into the process at /debug/pprof/.
	Profiling bool

	// Lookup finds the secret of an access key.
	Lookup sigv4.Lookup
	// Now is the time that signatures are checked against.
	Now func() time.Time
	Log *slog.Logger
}

// Server answers the admin API. It is safe for concurrent use.
type Server struct {
	o        Options
	verifier *sigv4.Verifier
	mux      *http.ServeMux
}

// New returns a server of the given parts.
func New(o Options) *Server {
	s := &Server{
		o:        o,
		verifier: sigv4.NewVerifier(sigv4.Options{Region: SigningRegion, StrictRegion: true}),
		mux:      http.NewServeMux(),
	}
	for _, calls := range []map[string]call{s.calls(), s.copyCalls()} {
		for pattern, call := range calls {
			s.mux.Handle(pattern, s.signed(call))
		}
	}
	s.mux.HandleFunc("POST /admin/v1/metadata/backup", s.backup)
	s.health()
	s.mux.HandleFunc("GET /metrics", s.metrics)
	s.profiling()
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.refuse(w, r, &Error{http.StatusNotFound, CodeNotFound, "no such call: " + r.Method + " " + r.URL.Path, ""})
	})
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	s.mux.ServeHTTP(w, r)
}

// call answers one request. body is the whole body, signed by the caller.
type call func(r *http.Request, body []byte) (any, error)

func (s *Server) calls() map[string]call {
	return map[string]call{
		"GET /admin/v1/status": func(r *http.Request, _ []byte) (any, error) { return s.o.Cluster.Status(r.Context()) },
		"GET /admin/v1/repair": func(r *http.Request, _ []byte) (any, error) { return s.o.Cluster.Repair(r.Context()) },
		"POST /admin/v1/collection/resume": func(r *http.Request, _ []byte) (any, error) {
			if err := s.o.Cluster.ResumeCollection(r.Context()); err != nil {
				return nil, err
			}
			return s.o.Cluster.Repair(r.Context())
		},
		"GET /admin/v1/drives": func(r *http.Request, _ []byte) (any, error) {
			drives, err := s.o.Drives.Drives(r.Context())
			return &DriveList{drives}, err
		},
		"POST /admin/v1/drives/replace": func(r *http.Request, body []byte) (any, error) {
			req, err := decode[ReplaceRequest](body)
			if err != nil {
				return nil, err
			}
			return s.o.Drives.ReplaceDrive(r.Context(), req)
		},
		"GET /admin/v1/scrub": func(r *http.Request, _ []byte) (any, error) { return s.o.Scrubs.Scrub(r.Context()) },
		"POST /admin/v1/scrub": func(r *http.Request, _ []byte) (any, error) {
			if err := s.o.Scrubs.StartScrub(r.Context()); err != nil {
				return nil, err
			}
			return s.o.Scrubs.Scrub(r.Context())
		},
		"GET /admin/v1/keys": func(r *http.Request, _ []byte) (any, error) {
			keys, err := s.o.Keys.Keys(r.Context())
			return &KeyList{keys}, err
		},
		"POST /admin/v1/keys": func(r *http.Request, body []byte) (any, error) {
			req, err := decode[CreateKeyRequest](body)
			if err != nil {
				return nil, err
			}
			return s.o.Keys.CreateKey(r.Context(), req)
		},
		"DELETE /admin/v1/keys/{id}": func(r *http.Request, _ []byte) (any, error) {
			return struct{}{}, s.o.Keys.DeleteKey(r.Context(), r.PathValue("id"))
		},
		"GET /admin/v1/keyring": func(r *http.Request, _ []byte) (any, error) { return s.o.Keyrings.Keyring(r.Context()) },
		"POST /admin/v1/keyring/backup": func(r *http.Request, _ []byte) (any, error) {
			return s.o.Keyrings.BackupKeyring(r.Context())
		},
		"POST /admin/v1/keyring/verify": func(r *http.Request, body []byte) (any, error) {
			req, err := decode[VerifyRequest](body)
			if err != nil {
				return nil, err
			}
			if err := s.o.Keyrings.VerifyKeyring(r.Context(), req.RecoveryCode); err != nil {
				return nil, err
			}
			return s.o.Keyrings.Keyring(r.Context())
		},
		"GET /admin/v1/buckets": func(r *http.Request, _ []byte) (any, error) {
			buckets, err := s.o.Buckets.Buckets(r.Context())
			return &BucketList{buckets}, err
		},
		"PATCH /admin/v1/buckets/{name}": func(r *http.Request, body []byte) (any, error) {
			req, err := decode[SetBucketRequest](body)
			if err != nil {
				return nil, err
			}
			return s.o.Buckets.SetBucket(r.Context(), r.PathValue("name"), req)
		},
	}
}

// signed wraps a call: it is answered only when the signature over head and
// body holds.
func (s *Server) signed(c call) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := s.verify(w, r)
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		answer, err := c(r, body)
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		s.write(w, r, http.StatusOK, answer)
	})
}

// verify checks the signature of a request and returns its body.
func (s *Server) verify(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	id, err := s.verifier.Verify(r, r.Host, s.o.Now(), s.o.Lookup)
	if err != nil {
		return nil, denied(err)
	}
	if id.Kind != sigv4.Header || id.Payload != sigv4.PayloadSigned {
		return nil, &Error{http.StatusForbidden, CodeDenied, "the call is not signed in its header over its body", "set RUCHE_ROOT_USER and RUCHE_ROOT_PASSWORD to an access key"}
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
	b := id.Body(r.Body)
	defer b.Close()
	body, err := io.ReadAll(b)
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, &Error{http.StatusRequestEntityTooLarge, CodeTooLarge, fmt.Sprintf("body of more than %d bytes", tooLarge.Limit), ""}
	}
	if err != nil {
		return nil, denied(err)
	}
	return body, nil
}

// denied words an error of package sigv4.
func denied(err error) error {
	e, ok := errors.AsType[*sigv4.Error](err)
	if !ok {
		return err
	}
	out := &Error{Status: e.Status, Code: CodeDenied, Message: e.Code + ": " + e.Message}
	switch e.Code {
	case "InvalidAccessKeyId", "SignatureDoesNotMatch":
		out.Remedy = "check access key and secret (root-credentials in the state directory, or RUCHE_ROOT_USER and RUCHE_ROOT_PASSWORD)"
	case "RequestTimeTooSkewed":
		out.Remedy = "set the clock of this machine or of the server"
	}
	return out
}

// decode parses a JSON body strictly.
func decode[T any](body []byte) (*T, error) {
	var v T
	d := json.NewDecoder(strings.NewReader(string(body)))
	d.DisallowUnknownFields()
	err := d.Decode(&v)
	if err == nil && d.More() {
		err = errors.New("more than one value")
	}
	if err != nil {
		return nil, &Error{http.StatusBadRequest, CodeBadRequest, "body: " + err.Error(), ""}
	}
	return &v, nil
}

// refuse answers an error. What is not an *Error is logged, and the client is
// told its text: whoever holds an access key here is the operator.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		s.o.Log.ErrorContext(r.Context(), "admin call failed", "method", r.Method, "path", r.URL.Path, "err", err)
		e = &Error{Status: http.StatusInternalServerError, Code: CodeInternal, Message: err.Error()}
	}
	s.write(w, r, e.Status, e)
}

func (s *Server) write(w http.ResponseWriter, r *http.Request, status int, answer any) {
	text, err := json.Marshal(answer)
	if err != nil {
		s.o.Log.ErrorContext(r.Context(), "admin answer", "path", r.URL.Path, "err", err)
		status, text = http.StatusInternalServerError, []byte(`{"code":"internal","message":"answer cannot be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(text, '\n')) // an error here means that the client has gone
}

// health answers load balancers, also under MinIO's paths.
func (s *Server) health() {
	answer := func(w http.ResponseWriter, err error) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, err)
			return
		}
		fmt.Fprintln(w, "ok")
	}
	for _, prefix := range []string{"GET /health/", "GET /minio/health/"} {
		s.mux.HandleFunc(prefix+"live", func(w http.ResponseWriter, _ *http.Request) { answer(w, nil) })
		s.mux.HandleFunc(prefix+"ready", func(w http.ResponseWriter, r *http.Request) { answer(w, s.o.Health.Ready(r.Context())) })
		s.mux.HandleFunc(prefix+"cluster", func(w http.ResponseWriter, r *http.Request) {
			answer(w, s.o.Health.Writable(r.Context(), r.URL.Query().Get("maintenance") == "true"))
		})
	}
}

func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	if !s.o.OpenMetrics && !s.bearer(r) {
		if _, err := s.verify(w, r); err != nil {
			w.Header().Set("WWW-Authenticate", "Bearer")
			s.write(w, r, http.StatusUnauthorized, &Error{Code: CodeDenied, Message: "metrics of this address need a bearer token or a signature", Remedy: "set metrics-token on the server"})
			return
		}
	}
	s.o.Metrics.ServeHTTP(w, r)
}

func (s *Server) bearer(r *http.Request) bool {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return ok && s.o.MetricsToken != "" && subtle.ConstantTimeCompare([]byte(token), []byte(s.o.MetricsToken)) == 1
}
