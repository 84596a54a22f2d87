package ourgo

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
)

const (
	keyBits = 2048
	keyType = "ssh-rsa"
	pemType = "RSA PRIVATE KEY"
)

// ensureKey makes an SSH key at a path unless it exists, and the public half beside it. It returns the public half.
func ensureKey(path string) ([]byte, error) {
	key, err := readKey(path)
	if errors.Is(err, os.ErrNotExist) {
		key, err = makeKey(path)
	}
	if err != nil {
		return nil, err
	}
	public := publicLine(&key.PublicKey)
	return public, os.WriteFile(path+".pub", public, 0o644)
}

func readKey(path string) (*rsa.PrivateKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != pemType {
		return nil, fmt.Errorf("%s is not an RSA key in PEM format", path)
	}
	return x509.ParsePKCS1PrivateKey(block.Bytes)
}

func makeKey(path string) (*rsa.PrivateKey, error) {
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, err
	}
	block := &pem.Block{Type: pemType, Bytes: x509.MarshalPKCS1PrivateKey(key)}
	return key, os.WriteFile(path, pem.EncodeToMemory(block), 0o600)
}

// publicLine returns a line for authorized_keys: the key's type, and in base64 the type again, exponent and modulus.
func publicLine(key *rsa.PublicKey) []byte {
	var blob bytes.Buffer
	for _, part := range [][]byte{[]byte(keyType), mpint(big.NewInt(int64(key.E))), mpint(key.N)} {
		length := make([]byte, 4)
		binary.BigEndian.PutUint32(length, uint32(len(part)))
		blob.Write(length)
		blob.Write(part)
	}
	return []byte(keyType + " " + base64.StdEncoding.EncodeToString(blob.Bytes()) + "\n")
}

// mpint returns a positive number as SSH writes it: with a zero byte in front if it would seem negative.
func mpint(number *big.Int) []byte {
	data := number.Bytes()
	if data[0] >= 0x80 {
		data = append([]byte{0}, data...)
	}
	return data
}
