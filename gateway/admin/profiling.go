package admin

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/pprof"
	"net/url"
	"time"
)

// profilesPath is where Go's tools look for profiles.
const profilesPath = "/debug/pprof/"

// profiling answers Go's profiles, if that was asked for, to whom any other call
// is answered: they tell what the process does, and cost it time.
func (s *Server) profiling() {
	for path, h := range map[string]http.HandlerFunc{
		"": pprof.Index, "cmdline": pprof.Cmdline, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace,
	} {
		s.mux.HandleFunc("GET "+profilesPath+path, func(w http.ResponseWriter, r *http.Request) {
			_, err := s.verify(w, r)
			if err == nil && !s.o.Profiling {
				err = &Error{http.StatusNotFound, CodeNotFound, "the server answers no profiles", "start it with --profiling"}
			}
			if err != nil {
				s.refuse(w, r, err)
				return
			}
			h(w, r)
		})
	}
}

// Profile fetches a profile of the server and writes it to w: "cpu" and "trace"
// of the time given, or what Go calls it, such as "heap", as it is at the
// moment. It returns how many bytes it has.
func (c *Client) Profile(ctx context.Context, kind string, of time.Duration, w io.Writer) (int64, error) {
	path := profilesPath + url.PathEscape(kind)
	switch kind {
	case "cpu":
		path = profilesPath + "profile"
		fallthrough
	case "trace":
		path += fmt.Sprintf("?seconds=%d", max(1, int(of.Seconds())))
	}
	reply, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return 0, err
	}
	defer reply.Body.Close()
	n, err := io.Copy(w, reply.Body)
	if err != nil {
		return n, fmt.Errorf("profile from %s: %w", c.base, err)
	}
	return n, nil
}
