package gateway

import (
	"net/http"
	"strings"

	"github.com/ruche-storage/ruche/gateway/wire"
)

// health answers the health pages, under their own names and MinIO's. It
// reports false for every other request. Signed requests are never health
// checks, so that a bucket may be called health.
func (s *Server) health(w http.ResponseWriter, r *http.Request) bool {
	path := strings.TrimPrefix(r.URL.Path, "/minio")
	check, ok := strings.CutPrefix(path, "/health/")
	if !ok || r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	if r.Header.Get("Authorization") != "" || r.URL.Query().Has("X-Amz-Signature") {
		return false
	}
	status := http.StatusOK
	down := func(err error, as int) {
		if err != nil {
			status = as
		}
	}
	switch check {
	case "live":
	case "ready":
		down(s.opts.Health.Ready(r.Context()), http.StatusServiceUnavailable)
	case "cluster":
		if r.URL.Query().Get("maintenance") == "true" {
			// As MinIO: up now, but not if one more is taken out.
			down(s.opts.Health.Writable(r.Context(), true), http.StatusPreconditionFailed)
		}
		down(s.opts.Health.Writable(r.Context(), false), http.StatusServiceUnavailable)
	default:
		return false
	}
	h := w.Header()
	h["Server"] = serverHeader
	h.Set(wire.HeaderRequestID, s.opts.RequestID())
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", "0")
	if status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	return true
}
