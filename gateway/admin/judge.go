package admin

import (
	"fmt"
	"path/filepath"
	"strconv"
)

// Circumstances are what Judge has to know besides the status itself.
type Circumstances struct {
	KeyringVerified    bool // a backup was made or the recovery code entered
	MetadataFull       bool
	OnDriveLossRefuses bool
	StateDir           string
	// PlainUntilRestart: encryption is on, and the metadata in StateDir, made
	// by an earlier version, is encrypted from the next start on. PlainFiles
	// are those that are still to be replaced.
	PlainUntilRestart bool
	PlainFiles        int64
}

// Judge fills Health, Summary and Warnings of a status from its other fields.
func Judge(s *Status, c Circumstances) {
	s.Summary, s.Warnings, s.Health = nil, nil, Green
	worse := func(h Health) {
		if h == Red || s.Health == Green {
			s.Health = h
		}
	}
	say := func(h Health, text string) {
		s.Summary = append(s.Summary, text)
		worse(h)
	}
	if n := s.Safety.Unrepairable; n > 0 {
		say(Red, fmt.Sprintf("%s cannot be read any more: too few shards are left (ruche repair status).", things(n, "chunk")))
	}
	judgeLoss(s, say)
	judgeMetadata(s, say)
	if n := s.Safety.ShortChunks; n == 1 {
		say(Yellow, "1 chunk has lost shards and waits for repair.")
	} else if n > 1 {
		say(Yellow, fmt.Sprintf("%d chunks have lost shards and wait for repair.", n))
	}
	if s.Safety.BackInSeconds > 0 {
		say(Green, "Everything will be whole again in "+about(s.Safety.BackInSeconds)+".")
	}
	judgeWrites(s, c, say)
	for _, w := range warnings(s, c) {
		s.Warnings = append(s.Warnings, w)
		worse(w.health)
	}
}

// judgeLoss says how many drives may still be lost.
func judgeLoss(s *Status, say func(Health, string)) {
	away := ""
	if s.Safety.Away > 0 {
		away = fmt.Sprintf(" (%s away or being rebuilt)", things(int64(s.Safety.Away), "drive"))
	}
	switch n := s.Safety.MayLose; {
	case s.Safety.Parity == 0 && s.Safety.Away > 0:
		say(Red, "The drive is away: nothing that lies on it can be read.")
	case s.Safety.Parity == 0:
		say(Yellow, "You may lose no drive: there is one copy of everything.")
	case n == 0 && s.Safety.Away > s.Safety.Parity:
		say(Red, fmt.Sprintf("More drives are away or being rebuilt (%d) than may be lost (%d): objects that need them cannot be read until drives are back.", s.Safety.Away, s.Safety.Parity))
	case n == 0 && s.Safety.Away > 0 || n == 0 && s.Safety.ShortChunks > 0:
		say(Red, "You may lose no further drive without losing data"+away+".")
	case n == 1:
		say(degree(s), "You may lose 1 drive without losing data"+away+".")
	default:
		say(degree(s), fmt.Sprintf("You may lose %d drives without losing data%s.", n, away))
	}
}

func degree(s *Status) Health {
	if s.Safety.Away > 0 {
		return Yellow
	}
	return Green
}

// judgeWrites says why writes stop.
func judgeWrites(s *Status, c Circumstances, say func(Health, string)) {
	switch {
	case c.MetadataFull:
		say(Red, "Writes are refused: the file system of "+c.StateDir+" is full. Free space there.")
	case s.Safety.Writable:
	case s.Safety.Parity == 1 && s.Safety.Away == 1 && c.OnDriveLossRefuses:
		say(Red, "Writes are refused: a drive is away, and with one parity shard a new object could not survive another loss. Replace the drive, or set on-drive-loss to degrade.")
	case full(s.Drives):
		say(Red, "Writes are refused: the drives are full. Delete objects or add space.")
	default:
		say(Red, "Writes are refused: too few drives take them.")
	}
}

func full(drives []Drive) bool {
	for _, d := range drives {
		if d.State == DriveFull {
			return true
		}
	}
	return false
}

func warnings(s *Status, c Circumstances) (out []Warning) {
	warn := func(code, text, remedy string) { out = append(out, Warning{code, text, remedy, Yellow}) }
	if !c.KeyringVerified {
		warn("keyring-unverified", "Nobody has shown yet to have the recovery code or a backup of the keyring; without one, the loss of this machine's state directory loses all data.",
			"run \"ruche keyring verify\", or \"ruche keyring backup FILE\"")
	}
	out = append(out, metadataWarnings(&s.Metadata, c)...)
	if !s.Encryption {
		warn("encryption-off", "What is stored is not encrypted.", "copy the buckets to a store that was started with encryption on")
	}
	if c.PlainUntilRestart {
		warn("metadata-plain", "The names of objects lie unencrypted in "+c.StateDir+", as an earlier version left them.",
			"start the server again: from then on they are encrypted, with the files that are there")
	} else if c.PlainFiles > 0 {
		warn("metadata-plain", things(c.PlainFiles, "file")+" of the metadata and of indexes lie unencrypted, as an earlier version left them, and are being replaced.",
			"wait; if the number does not fall, read the log and start the server again")
	}
	if s.Repair.CollectionOff {
		text, remedy := collectionOff(s.Repair.OffCause, c.StateDir)
		warn("collection-off", text, remedy)
	}
	for _, d := range s.Drives {
		switch d.State {
		case DriveAbsent:
			warn("drive-absent", fmt.Sprintf("Drive %s is absent: %s.", name(d), d.Reason), "mount it and start again, or run \"ruche drive replace "+name(d)+"\"")
		case DriveFenced:
			warn("drive-fenced", fmt.Sprintf("Drive %s failed and serves nothing: %s.", name(d), d.Reason), "check the device; start again if it is sound, else replace it")
		case DriveSlow:
			warn("drive-slow", fmt.Sprintf("Drive %s answers much later than the others: writes avoid it.", name(d)), "if it stays so, check the device, and unmount and replace it")
		case DriveFull:
			warn("drive-full", fmt.Sprintf("Drive %s is full.", name(d)), "delete objects or add space")
		}
	}
	return out
}

// collectionOff words why nothing is freed, and what to do.
func collectionOff(cause OffCause, stateDir string) (text, remedy string) {
	const ever = "run \"ruche repair resume-collection\""
	remedy = "when you are sure that no newer copy of the metadata will come back, " + ever
	switch cause {
	case OffLost:
		return "The newest changes of the metadata are missing, though clients were told that they were stored: the end of its log is lost, or it was put back to an earlier time. Nothing that is deleted is freed.",
			"to bring back what is older than some seconds, stop the server, move " + filepath.Join(stateDir, "metadata") + " away, and run \"ruche recover --include-ended\"; if nothing is to come back, " + ever
	case OffRestored:
		text = "The metadata was restored from a backup: nothing that is deleted is freed."
	case OffRecovered:
		text = "The metadata was recovered from the drives: nothing that is deleted is freed."
		remedy = "when you are sure that nothing more comes back, such as a drive that is mislaid or a newer copy of the metadata, " + ever
	case OffForced:
		text = "One copy of the metadata was forced to be the truth, and others may have known more: nothing that is deleted is freed."
	default:
		text = "The metadata was found older than the drives, as after its files were put back: nothing that is deleted is freed."
	}
	return text, remedy
}

func name(d Drive) string {
	if d.Path != "" {
		return d.Path
	}
	return d.ID
}

// things words a number of things.
func things(n int64, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.FormatInt(n, 10) + " " + one + "s"
}

// about words a time to come.
func about(s Seconds) string {
	switch {
	case s < 90:
		return "about a minute"
	case s < 90*60:
		return "about " + things(int64(s+30)/60, "minute")
	case s < 48*3600:
		return "about " + things(int64(s+1800)/3600, "hour")
	}
	return "about " + things(int64(s+43200)/86400, "day")
}
