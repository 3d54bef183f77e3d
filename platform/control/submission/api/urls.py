"""Routes of messages, below /api/v2/."""

from django.urls import URLPattern, path

from control.submission.api.views import MessagesView, MessageView

urlpatterns: list[URLPattern] = [
    path("messages", MessagesView.as_view(), name="messages"),
    path("messages/<str:message_id>", MessageView.as_view(), name="message"),
]
