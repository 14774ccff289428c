#pragma once
#include "G4AffineTransform.hh"
#include "G4Region.hh"
#include "G4Track.hh"
#include "G4VSolid.hh"
class G4FastTrack {
public:
    // A track in an envelope whose frame is brought into the world by `to_world`, and back by `to_local`.
    G4FastTrack(const G4Track* track, G4VSolid* solid, const G4AffineTransform& to_local, const G4AffineTransform& to_world)
        : track_(track), solid_(solid), to_local_(to_local), to_world_(to_world) {
        position_ = to_local.TransformPoint(track->GetPosition());
        direction_ = to_local.TransformAxis(track->GetMomentumDirection());
    }
    const G4Track* GetPrimaryTrack() const { return track_; }
    G4VSolid* GetEnvelopeSolid() const { return solid_; }
    G4ThreeVector GetPrimaryTrackLocalPosition() const { return position_; }
    G4ThreeVector GetPrimaryTrackLocalDirection() const { return direction_; }
    const G4AffineTransform* GetAffineTransformation() const { return &to_local_; }
    const G4AffineTransform* GetInverseAffineTransformation() const { return &to_world_; }

private:
    const G4Track* track_;
    char before_[32] = {};
    G4VSolid* solid_;  // at 40
    char between_[8] = {};
    G4ThreeVector position_;  // at 56
    char momentum_[24] = {};
    G4ThreeVector direction_;  // at 104
    char polarisation_[24] = {};
    G4AffineTransform to_local_, to_world_;  // at 152 and 248
};
