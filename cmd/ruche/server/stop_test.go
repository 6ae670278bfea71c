package server

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestStopWithHangingDrives: that a drive holds up the end is said, names the
// drive, and is no failure. Anything else still is.
func TestStopWithHangingDrives(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	p := newProcess(Options{Config: settings(t, t.TempDir(), nil), Now: time.Now, Log: slog.New(slog.NewTextHandler(&log, nil))})
	failed := errors.New("the disk is on fire")
	var order []string
	part := func(what string, err error) {
		p.onClose(what, func() error {
			order = append(order, what)
			return err
		})
	}
	part("metadata", nil)
	part("drives", fmt.Errorf("drives %v are not closed after %v: %w", []string{"/srv/d3"}, time.Second, errHangs))
	part("engine", fmt.Errorf("drives %v have not answered for %v: %w", []string{"/srv/d3"}, time.Second, errHangs))
	if err := p.close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if got := strings.Join(order, " "); got != "engine drives metadata" {
		t.Errorf("closed %s", got)
	}
	if n := strings.Count(log.String(), "/srv/d3"); n != 2 {
		t.Errorf("the drive is named %d times:\n%s", n, log.String())
	}
	part("drives", errHangs)
	part("lock", failed)
	if err := p.close(); !errors.Is(err, failed) || errors.Is(err, errHangs) {
		t.Errorf("close: %v", err)
	}
}
