// Command consumer reads access events and prints each as a line of JSON. It uses its own consumer
// group. The platform stores its positions in Elasticsearch, so reading or committing here does not
// affect them. The program ends on SIGINT or SIGTERM.
package main

import (
	"encoding/json"
	"flag"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/confluentinc/confluent-kafka-go/kafka"
)

// line is the printed object: partition, offset, timestamp, headers, and the unchanged body.
type line struct {
	Partition int32             `json:"partition"`
	Offset    kafka.Offset      `json:"offset"`
	Timestamp time.Time         `json:"timestamp"`
	Headers   map[string]string `json:"headers"`
	Event     json.RawMessage   `json:"event"`
}

func main() {
	group := flag.String("group", "go-example", "consumer group: its members share the partitions")
	flag.Parse()
	consumer, err := kafka.NewConsumer(&kafka.ConfigMap{
		"bootstrap.servers": os.Getenv("KP_KAFKA_BOOTSTRAP_SERVERS"),
		"group.id":          *group,
		"auto.offset.reset": "earliest",
	})
	check(err)
	defer consumer.Close() // commits offsets, leaves the group
	check(consumer.Subscribe("analyze.action", nil))
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGINT, syscall.SIGTERM)
	out := json.NewEncoder(os.Stdout)
	for {
		select {
		case <-ended:
			return
		default:
		}
		switch event := consumer.Poll(100).(type) {
		case *kafka.Message:
			check(event.TopicPartition.Error)
			if utf8.Valid(event.Value) && json.Valid(event.Value) {
				check(out.Encode(asLine(event)))
			} else {
				log.Printf("not JSON: %v", event.TopicPartition)
			}
		case kafka.Error:
			log.Print(event) // librdkafka reconnects automatically
		}
	}
}

func asLine(message *kafka.Message) line {
	headers := make(map[string]string, len(message.Headers))
	for _, header := range message.Headers {
		headers[header.Key] = string(header.Value)
	}
	at := message.TopicPartition
	return line{at.Partition, at.Offset, message.Timestamp.UTC(), headers, message.Value}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
