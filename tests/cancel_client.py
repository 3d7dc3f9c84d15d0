"""An ordinary action client of rclpy for tests/test_rcl.py: sends a goal to execute_task, cancels it, and says how it ended."""

import rclpy
from rclpy.action import ActionClient
from rclpy.node import Node
from soma_msgs.action import ExecuteTask

rclpy.init()
node = Node("client")
client = ActionClient(node, ExecuteTask, "execute_task")


def spun(future):
    rclpy.spin_until_future_complete(node, future, timeout_sec=10.0)
    return future.result()


assert client.wait_for_server(timeout_sec=10.0)
goal = spun(client.send_goal_async(ExecuteTask.Goal(instruction="pick up the red cube")))
assert goal.accepted
result = goal.get_result_async()
cancelled = spun(goal.cancel_goal_async())
print("cancelling", len(cancelled.goals_canceling), "status", spun(result).status, spun(result).result.message)
rclpy.shutdown()
