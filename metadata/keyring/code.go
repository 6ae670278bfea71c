package keyring

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"golang.org/x/crypto/argon2"
)

// KDF are the parameters of Argon2id (RFC 9106).
type KDF struct {
	Time      uint32 // passes
	MemoryKiB uint32
	Threads   uint8
}

// DefaultKDF is the second recommendation of RFC 9106, section 4: 64 MiB. The
// code has 130 random bits, so no parameters are too weak; these cost nothing
// that matters where a code is typed.
var DefaultKDF = KDF{Time: 3, MemoryKiB: 64 << 10, Threads: 4}

// Validate reports whether the parameters are usable. The bounds keep a
// damaged header from asking for all memory: at most 16 passes, 256 MiB and 16
// threads.
func (p KDF) Validate() error {
	if p.Time < 1 || p.Time > 16 || p.Threads < 1 || p.Threads > 16 ||
		p.MemoryKiB < 8*uint32(p.Threads) || p.MemoryKiB > 256<<10 {
		return fmt.Errorf("keyring: Argon2id with %d passes, %d KiB, %d threads", p.Time, p.MemoryKiB, p.Threads)
	}
	return nil
}

func (p KDF) key(symbols string, salt [16]byte) Key {
	return Key(argon2.IDKey([]byte(symbols), salt[:], p.Time, p.MemoryKiB, p.Threads, 32))
}

const (
	// alphabet is Crockford's base 32: no I, L, O and U.
	alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

	codeSymbols  = 26 // random, 5 bits each
	checkSymbols = 4
	groupSymbols = 5
)

// newCode returns the 26 symbols of a new code.
func newCode(random io.Reader) (string, error) {
	var b [codeSymbols]byte
	if err := read(random, b[:]); err != nil {
		return "", err
	}
	for i := range b {
		b[i] = alphabet[b[i]%32]
	}
	return string(b[:]), nil
}

// check returns the symbols that follow a code to reveal typing errors: the
// first 20 bits of a hash.
func check(symbols string) string {
	sum := sha256.Sum256([]byte(labelCode + symbols))
	bits := binary.BigEndian.Uint32(sum[:])
	var c [checkSymbols]byte
	for i := range c {
		c[i] = alphabet[bits>>27]
		bits <<= 5
	}
	return string(c[:])
}

// printCode returns the code as it is shown: six groups of five.
func printCode(symbols string) string {
	all := symbols + check(symbols)
	var b strings.Builder
	for i := 0; i < len(all); i += groupSymbols {
		if i > 0 {
			b.WriteByte('-')
		}
		b.WriteString(all[i : i+groupSymbols])
	}
	return b.String()
}

// parseCode returns the 26 symbols of a typed code. Letter case, blanks and
// dashes do not matter, and O is read as 0, I and L as 1. The error wraps
// [ErrMistyped] and never holds the code.
func parseCode(typed string) (string, error) {
	if len(typed) > 256 {
		return "", fmt.Errorf("%w (%d characters)", ErrMistyped, len(typed))
	}
	var b strings.Builder
	for i, r := range strings.ToUpper(typed) {
		switch r {
		case ' ', '-', '\t', '\r', '\n':
			continue
		case 'O':
			r = '0'
		case 'I', 'L':
			r = '1'
		}
		if !strings.ContainsRune(alphabet, r) {
			return "", fmt.Errorf("%w (character %d is never part of a code)", ErrMistyped, i+1)
		}
		b.WriteRune(r)
	}
	all := b.String()
	if len(all) != codeSymbols+checkSymbols {
		return "", fmt.Errorf("%w (%d letters and digits instead of %d)", ErrMistyped, len(all), codeSymbols+checkSymbols)
	}
	if check(all[:codeSymbols]) != all[codeSymbols:] {
		return "", ErrMistyped
	}
	return all[:codeSymbols], nil
}

// ReplaceCode returns a keyring with a new recovery code, and the code. Sealed
// copies made from then on open with the new code only. A zero kdf means
// [DefaultKDF].
func (k *Keyring) ReplaceCode(random io.Reader, kdf KDF) (n *Keyring, code string, err error) {
	if kdf == (KDF{}) {
		kdf = DefaultKDF
	}
	if err := kdf.Validate(); err != nil {
		return nil, "", err
	}
	symbols, err := newCode(random)
	if err != nil {
		return nil, "", err
	}
	n = k.next()
	n.recovery.kdf = kdf
	if err := read(random, n.recovery.salt[:]); err != nil {
		return nil, "", err
	}
	n.recovery.key = kdf.key(symbols, n.recovery.salt)
	n.verified = Verification{}
	return n, printCode(symbols), nil
}

// CheckCode returns nil if code is the recovery code of this keyring, and an
// error wrapping [ErrMistyped] or [ErrWrongCode] otherwise.
func (k *Keyring) CheckCode(code string) error {
	symbols, err := parseCode(code)
	if err != nil {
		return err
	}
	key := k.recovery.kdf.key(symbols, k.recovery.salt)
	if subtle.ConstantTimeCompare(key[:], k.recovery.key[:]) != 1 {
		return ErrWrongCode
	}
	return nil
}
