package ourgo

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

const qmpTime = 20 * time.Second

// execute executes a command of QEMU's monitor that has no answer.
func (driver *Driver) execute(command string) error {
	var nothing interface{}
	return driver.query(command, &nothing)
}

// status returns QEMU's name of the machine's state.
func (driver *Driver) status() (string, error) {
	var answer struct{ Status string }
	err := driver.query("query-status", &answer)
	return answer.Status, err
}

func (driver *Driver) query(command string, answer interface{}) error {
	// The path through /proc is short, whatever the folder's length is.
	folder, err := os.Open(driver.Folder())
	if err != nil {
		return err
	}
	defer folder.Close()
	connection, err := net.DialTimeout("unix", fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), qmpFile), qmpTime)
	if err != nil {
		return err
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(qmpTime)); err != nil {
		return err
	}
	encoder, decoder := json.NewEncoder(connection), json.NewDecoder(connection)
	var ignored json.RawMessage
	for _, step := range []struct {
		name   string
		answer interface{}
	}{{"qmp_capabilities", &ignored}, {command, answer}} {
		if err := encoder.Encode(map[string]string{"execute": step.name}); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if err := readAnswer(decoder, step.answer); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// readAnswer reads messages until one is an answer. The others are the greeting and events.
func readAnswer(decoder *json.Decoder, answer interface{}) error {
	for {
		var message struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
		}
		if err := decoder.Decode(&message); err != nil {
			return err
		}
		if message.Error != nil {
			return errors.New(message.Error.Desc)
		}
		if message.Return != nil {
			return json.Unmarshal(message.Return, answer)
		}
	}
}
