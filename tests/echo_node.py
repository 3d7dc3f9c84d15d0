"""An ordinary node of rclpy for tests/test_rcl.py: sends back on echo/TOPIC what it gets on TOPIC."""

import sys

import rclpy
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

rclpy.init(args=sys.argv)
node = Node("echo")
for kind in (Image, JointState, JointTrajectory, String):
    back = node.create_publisher(kind, f"echo/{kind.__name__}", 10)
    node.create_subscription(kind, kind.__name__, back.publish, 10)
rclpy.spin(node)
