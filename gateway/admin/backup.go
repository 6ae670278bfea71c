package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// backupStall is how long a client of a backup may take nothing: the state that
// it is made of is kept for it.
const backupStall = time.Minute

// Backups writes backups of the metadata.
type Backups interface {
	// BackupMetadata writes a backup of all metadata to w, sealed if
	// encryption is on. There is none unless it returns nil.
	BackupMetadata(ctx context.Context, w io.Writer) error
}

// backup streams a backup. An error before its first byte is answered as any
// other is; a later one breaks the connection, so that nobody takes a part for
// the whole.
func (s *Server) backup(w http.ResponseWriter, r *http.Request) {
	if _, err := s.verify(w, r); err != nil {
		s.refuse(w, r, err)
		return
	}
	out := &stream{w: w, control: http.NewResponseController(w)}
	err := s.o.Backups.BackupMetadata(r.Context(), out)
	switch {
	case err == nil:
		return
	case !out.begun:
		s.refuse(w, r, err)
	default:
		s.o.Log.ErrorContext(r.Context(), "backup of the metadata broken off", "err", err)
		panic(http.ErrAbortHandler)
	}
}

// stream is the body of an answer that takes long: not the whole of it has a
// deadline, but each write.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool
}

// Write implements io.Writer.
func (s *stream) Write(b []byte) (int, error) {
	if err := s.control.SetWriteDeadline(time.Now().Add(backupStall)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	if !s.begun {
		s.begun = true
		s.w.Header().Set("Content-Type", "application/octet-stream")
		s.w.WriteHeader(http.StatusOK)
		// What breaks off from now on is not to look like no server.
		if err := s.control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return 0, err
		}
	}
	return s.w.Write(b)
}

// BackupMetadata fetches a backup of all metadata and writes it to w. It returns
// how many bytes it has. After an error, what was written is no backup.
func (c *Client) BackupMetadata(ctx context.Context, w io.Writer) (int64, error) {
	reply, err := c.send(ctx, http.MethodPost, callsPath+"/metadata/backup", nil)
	if err != nil {
		return 0, err
	}
	defer reply.Body.Close()
	n, err := io.Copy(w, reply.Body)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return n, fmt.Errorf("the server at %s broke the backup off after %d bytes: see its log, and try again", c.base, n)
	}
	if err != nil {
		return n, fmt.Errorf("backup from %s: %w", c.base, err)
	}
	return n, nil
}
