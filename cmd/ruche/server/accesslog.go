package server

import (
	"io"
	"log/slog"
	"os"
	"sync"
)

// logFile is a file that is written to its end, and opened anew when something
// else has been put in its place. It is safe for concurrent use.
type logFile struct {
	name string

	mu sync.Mutex // guards f, and is held while it is written
	f  *os.File
}

func openLogFile(name string) (*logFile, error) {
	f, err := appendTo(name)
	return &logFile{name: name, f: f}, err
}

func appendTo(name string) (*os.File, error) {
	return os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
}

// Write implements io.Writer.
func (l *logFile) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Write(b)
}

// reopen opens the file by its name anew. If that fails, the one that is open is
// kept.
func (l *logFile) reopen() error {
	f, err := appendTo(l.name)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.f
	l.f = f
	return old.Close()
}

func (l *logFile) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}

// openAccessLog opens the access log, and opens it anew whenever that is asked
// for.
func (p *process) openAccessLog() (io.Writer, error) {
	l, err := openLogFile(p.c.AccessLog)
	if err != nil {
		return nil, fileErrorOr(NotWritable, "access log "+p.c.AccessLog, "give a file that can be written, with --access-log", err)
	}
	end := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() { l.follow(p.Reopen, end, p.Log) })
	p.onClose("access log", func() error {
		close(end)
		work.Wait()
		return l.close()
	})
	return l, nil
}

// follow opens the file anew at every signal, until end is closed.
func (l *logFile) follow(signals <-chan os.Signal, end <-chan struct{}, log *slog.Logger) {
	for {
		select {
		case <-end:
			return
		case <-signals:
		}
		if err := l.reopen(); err != nil {
			log.Error("the access log was not opened anew", "path", l.name, "err", err)
			continue
		}
		log.Info("the access log was opened anew", "path", l.name)
	}
}
