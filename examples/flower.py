"""Federated averaging with Flower, whose messages are differences: what each side has learned since the last one.

Flower (1.42) asks for an older typer than metaq's command line does, so install it beside metaq without those extras:
`pip install metaq-nn torch scikit-learn flwr`. All nodes are in this process; strategy and app are as in any other run.
"""

import logging
import sys
from collections.abc import Iterable

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity
from torch.nn import functional

import metaq
from metaq.experiments.data import by_name
from metaq.experiments.models import LeNet5

path = sys.argv[1] if len(sys.argv) > 1 else "averaged.mtq"
NODES, ROUNDS, EPOCHS, BATCH = 4, 5, 4, 32
LOST = metaq.CompressionConfig(max_error=0.05)  # of what has been learned, in each message
torch.manual_seed(0)
data = by_name("digits")(200)
initial = LeNet5().state_dict()  # which all nodes have: of a seed, or shipped with the program
logging.getLogger("flwr").setLevel(logging.WARNING)


def train(state, images, labels):
    """The usual loop, from one state dict to another."""
    model = LeNet5()
    model.load_state_dict(state)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _epoch in range(EPOCHS):
        for batch in torch.randperm(len(labels)).split(BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.state_dict()


app = ClientApp()


@app.train()
def train_on_node(message: Message, context: Context) -> Message:
    """Apply the update to what this node has, train on its own digits, and send back what they change."""
    held = context.state["arrays"].to_torch_state_dict() if "arrays" in context.state else initial
    shared = metaq.apply(held, message.content["update"]["mtq"])
    context.state["arrays"] = ArrayRecord(shared)
    own = torch.arange(len(data.train.labels))[context.node_id - 1 :: NODES]
    trained = train(shared, data.train.inputs[own], data.train.labels[own])
    update = ConfigRecord({"mtq": metaq.delta(shared, trained, config=LOST)})
    return Message(
        RecordDict({"update": update, "metrics": MetricRecord({"num-examples": len(own)})}), reply_to=message
    )


class DifferenceAveraging(FedAvg):
    """Federated averaging of what messages with differences make of the network that all nodes have."""

    held = initial

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid):
        """Send what has changed since the last round; the nodes' network, with what is lost, is the server's too."""
        update = metaq.delta(self.held, arrays.to_torch_state_dict(), config=LOST)
        self.held = metaq.apply(self.held, update)
        messages = super().configure_train(server_round, arrays, config, grid)
        for message in messages:
            message.content = RecordDict({"update": ConfigRecord({"mtq": update})})
        return messages

    def aggregate_train(self, server_round: int, replies: Iterable[Message]):
        """Put the nodes' networks in the place of their differences, and average them."""
        replies = list(replies)
        for reply in replies:
            trained = metaq.apply(self.held, reply.content["update"]["mtq"])
            reply.content = RecordDict({"arrays": ArrayRecord(trained), "metrics": reply.content["metrics"]})
        return super().aggregate_train(server_round, replies)


class OneProcess(Grid):
    """Nodes that are called one after the other, and the bytes of their messages."""

    run = property(lambda self: None)

    def __init__(self) -> None:
        TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1  # which Flower's runtime sets otherwise
        self.contexts = {node: Context(1, node, {}, RecordDict(), {}) for node in range(1, NODES + 1)}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        down = up = 0
        replies = []
        for message in messages:
            reply = app(message, self.contexts[message.metadata.dst_node_id])
            down += len(message.content["update"]["mtq"])
            up += len(reply.content["update"]["mtq"])
            replies.append(reply)
        if replies:
            whole = sum(tensor.nbytes for tensor in initial.values()) * len(replies)
            print(f"{down:9,} bytes to the nodes, {up:9,} from them; {whole:,} of float32 each way")
        return replies

    def get_node_ids(self) -> Iterable[int]:
        return self.contexts

    def set_run(self, run) -> None: ...
    def create_message(self, *arguments, **options): ...
    def push_messages(self, messages): ...
    def pull_messages(self, message_ids): ...


@torch.no_grad()
def accuracy(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    model = LeNet5()
    model.load_state_dict(arrays.to_torch_state_dict())
    right = float((model(data.validation.inputs).argmax(1) == data.validation.labels).float().mean())
    print(f"round {server_round}: {right:.3f} of the digits")
    return MetricRecord({"accuracy": right})


strategy = DifferenceAveraging(fraction_evaluate=0.0)
result = strategy.start(OneProcess(), ArrayRecord(initial), num_rounds=ROUNDS, evaluate_fn=accuracy)
metaq.save(metaq.compress_losslessly(result.arrays.to_torch_state_dict()), path)
