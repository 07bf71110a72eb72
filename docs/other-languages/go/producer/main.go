// Command producer publishes accesses like the web emitter: one event per message, CloudEvents
// attributes as headers, the time of the access as timestamp. The contract is in docs/contract.
// It prints the body of each event that Kafka acknowledged.
package main

import (
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/confluentinc/confluent-kafka-go/kafka"
)

type accessEvent struct {
	UUID string `json:"uuid"`
	URI  string `json:"uri"`
	Name string `json:"name"`
}

func main() {
	count := flag.Int("count", 1, "number of accesses to publish")
	name := flag.String("name", "presto", "name of the visitor")
	flag.Parse()
	producer, err := kafka.NewProducer(&kafka.ConfigMap{
		"bootstrap.servers":  os.Getenv("KP_KAFKA_BOOTSTRAP_SERVERS"),
		"enable.idempotence": true, // acks=all, no duplicates by retries
	})
	check(err)
	defer producer.Close()
	delivered := make(chan kafka.Event, *count)
	for n := 0; n < *count; n++ {
		event := accessEvent{newUUID(), fmt.Sprintf("/from/go/%d?q=caf%%C3%%A9", n), *name}
		check(producer.Produce(message(event, time.Now()), delivered))
	}
	for n := 0; n < *count; n++ {
		report := (<-delivered).(*kafka.Message)
		check(report.TopicPartition.Error)
		fmt.Println(string(report.Value))
	}
}

func message(event accessEvent, at time.Time) *kafka.Message {
	topic := "analyze.action"
	body, err := json.Marshal(event)
	check(err)
	return &kafka.Message{
		TopicPartition: kafka.TopicPartition{Topic: &topic, Partition: kafka.PartitionAny},
		Value:          body,
		Timestamp:      at,
		Headers: []kafka.Header{
			{Key: "ce_specversion", Value: []byte("1.0")},
			{Key: "ce_id", Value: []byte(event.UUID)},
			{Key: "ce_source", Value: []byte("/other-languages/go")},
			{Key: "ce_type", Value: []byte("kp.access.v1")},
			{Key: "ce_time", Value: []byte(at.UTC().Format("2006-01-02T15:04:05.000Z07:00"))},
		},
	}
}

// newUUID returns a random UUID: version 4, lower case.
func newUUID() string {
	var b [16]byte
	_, err := rand.Read(b[:])
	check(err)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
